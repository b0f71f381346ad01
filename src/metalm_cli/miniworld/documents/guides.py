"""Guides of the how-to documents: goals, what they require, and their steps in order."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Guide:
    """A guide: its goal is an infinitive without ``to``; each step is a tuple of wordings without a full stop."""

    goal: str
    needs: str
    steps: tuple[tuple[str, ...], ...]
    closings: tuple[str, ...]
    tools: tuple[str, ...] = ()
    """Kinds of things that the guide uses, by their names in the lexicon."""


_MEAL_CLOSINGS = ("Now you can eat.", "Share it with your friends.", "It tastes best when it is fresh.")
_WORK_CLOSINGS = ("That is all.", "Now the work is done.", "With a little practice it is easy.")

GUIDES = (
    Guide(
        "bake bread",
        "flour, water, salt and a hot oven",
        (
            ("Mix the flour with the water and the salt", "Put flour, water and salt into a bowl"),
            ("Work the dough with both hands for ten minutes", "Press and fold the dough until it is smooth"),
            ("Cover the bowl and wait for an hour", "Let the dough rest in a warm place"),
            ("Give the dough the form of a loaf", "Make a round loaf"),
            ("Put the loaf into the oven", "Bake the loaf in the hot oven"),
            ("Take the bread out when it is brown", "Let the bread cool on the table"),
        ),
        _MEAL_CLOSINGS,
        ("bowl", "knife", "table"),
    ),
    Guide(
        "make tea",
        "a kettle, a cup, water and tea leaves",
        (
            ("Fill the kettle with fresh water", "Pour cold water into the kettle"),
            ("Put the kettle on the fire", "Wait until the water is hot"),
            ("Put the tea leaves into the cup", "Place some tea leaves in a cup"),
            ("Pour the hot water over the leaves", "Add the hot water"),
            ("Wait for four minutes", "Let the tea stand for a while"),
            ("Take out the leaves", "Add a little honey if you like it sweet"),
        ),
        ("Now you can drink.", "Be careful, because the cup is hot.", "Tea is best when it is fresh."),
        ("cup", "spoon", "table"),
    ),
    Guide(
        "plant a tree",
        "a young tree, a spade and some water",
        (
            ("Look for a place with enough light", "Choose a sunny place in the garden"),
            ("Dig a deep hole", "Dig a hole with the spade"),
            ("Put the young tree into the hole", "Set the tree in the middle of the hole"),
            ("Fill the hole with soil", "Press the soil down with your feet"),
            ("Give the tree plenty of water", "Pour a bucket of water around the tree"),
            ("Come back every week and look at it", "Water the tree again when the weather is dry"),
        ),
        ("In a few years the tree will be taller than you.", "A tree needs time.", *_WORK_CLOSINGS),
    ),
    Guide(
        "clean a bicycle",
        "warm water, soap, a brush and a dry cloth",
        (
            ("Put the bicycle in a dry place", "Stand the bicycle against a wall"),
            ("Wash it with warm water and soap", "Clean it with a wet brush"),
            ("Clean the wheels well", "Do not forget the wheels"),
            ("Dry everything with the cloth", "Rub it until it is dry"),
            ("Put a drop of oil on the chain", "Look at the brakes as well"),
        ),
        ("Now it looks like new.", *_WORK_CLOSINGS),
        ("bicycle",),
    ),
    Guide(
        "build a kite",
        "paper, two thin sticks, glue and a long string",
        (
            ("Lay one stick across the other", "Make a cross with the two sticks"),
            ("Tie the sticks together", "Bind the sticks with a piece of string"),
            ("Cut the paper to the right size", "Cut out a large piece of paper"),
            ("Glue the paper to the sticks", "Fix the paper with glue"),
            ("Add a long tail", "Tie a tail to the end of the kite"),
            ("Tie the string to the middle", "Fasten the long string"),
        ),
        ("Wait for a windy day.", "Run against the wind and let it fly.", *_WORK_CLOSINGS),
        ("kite", "table"),
    ),
    Guide(
        "write a letter",
        "paper, a pen and a quiet place",
        (
            ("Sit down in a quiet place", "Find a table with enough light"),
            ("Write the name of your friend at the top", "Begin with a greeting"),
            ("Tell your friend what has happened", "Write about the things you have seen"),
            ("Ask a question or two", "Do not forget to ask how your friend is"),
            ("Put your own name at the end", "Sign the letter"),
            ("Fold the paper and close the letter", "Read the letter once more"),
        ),
        ("Your friend will be happy.", "Letters make people smile.", *_WORK_CLOSINGS),
        ("table", "chair", "lamp"),
    ),
    Guide(
        "cook a soup",
        "carrots, onions, beans, salt and a pot of water",
        (
            ("Wash the vegetables", "Clean the vegetables with cold water"),
            ("Cut them into small pieces", "Cut everything with a sharp knife"),
            ("Put the pot on the fire", "Heat the water in a large pot"),
            ("Add the vegetables and some salt", "Put everything into the pot"),
            ("Let the soup cook for half an hour", "Stir the soup from time to time"),
            ("Fill the bowls with the hot soup", "Try the soup before you serve it"),
        ),
        _MEAL_CLOSINGS,
        ("knife", "spoon", "bowl"),
    ),
    Guide(
        "hang a picture",
        "a picture, a nail, a hammer and a ladder",
        (
            ("Choose a good place on the wall", "Hold the picture against the wall"),
            ("Make a small mark with a pen", "Mark the place"),
            ("Climb the ladder with care", "Ask a friend to hold the ladder"),
            ("Drive the nail into the wall", "Hit the nail with the hammer"),
            ("Hang the picture on the nail", "Put the picture up"),
            ("Go back a few steps and look at it", "Make sure that it hangs straight"),
        ),
        _WORK_CLOSINGS,
        ("hammer", "ladder"),
    ),
    Guide(
        "tidy a room",
        "a broom, a box and some time",
        (
            ("Open the window", "Let some fresh air into the room"),
            ("Pick up everything that lies on the floor", "Put the small things into the box"),
            ("Fold the blanket and make the bed", "Put the pillow in its place"),
            ("Wipe the table with a wet cloth", "Clean the table"),
            ("Sweep the floor", "Sweep under the bed as well"),
        ),
        ("Now there is room to play.", "It is nice to come home to a clean room.", *_WORK_CLOSINGS),
        ("broom", "box", "pillow", "blanket"),
    ),
    Guide(
        "look after a young animal",
        "clean water, fresh food and a warm place",
        (
            ("Give it a warm place to sleep", "Make a soft bed of straw"),
            ("Put clean water beside the bed", "Give it fresh water every day"),
            ("Find out what it likes to eat", "Feed it a little at a time"),
            ("Speak in a quiet voice", "Do not make loud noises"),
            ("Let it rest when it is tired", "Give it time to get used to you"),
        ),
        ("Soon it will know your voice.", "A young animal needs a friend.", "Be patient and gentle."),
        ("basket", "bowl", "blanket"),
    ),
)

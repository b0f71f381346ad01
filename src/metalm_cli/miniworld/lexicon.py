"""Lexicon of the world, with what is true in every world: animals, foods, jobs, things, materials.

Nothing in this module depends on a seed. People, homes and belongings are drawn in
:mod:`metalm_cli.miniworld.builder`.
"""

from __future__ import annotations

from dataclasses import dataclass


def _split_words(words: str) -> list[str]:
    return words.split("|") if "|" in words else words.split()


WOMEN = _split_words(
    "Ada Alma Anna Bella Carla Clara Dora Edith Ella Emma Flora Greta Hanna Helen Ida Jane Julia Karen Laura "
    "Lena Lily Lucy Maria Martha Mina Nina Nora Olga Paula Rita Rosa Ruth Sara Sofia Tara Tina Vera Wanda Zoe"
)
MEN = _split_words(
    "Adam Alan Anton Arthur Ben Bruno Carl Daniel David Edgar Emil Felix Frank Fred George Gustav Hugo Ivan Jack "
    "Jacob John Karl Leo Martin Max Milo Nathan Noah Oliver Omar Oscar Otto Paul Peter Robert Simon Theo Tom Victor "
    "Walter"
)
SURNAMES = _split_words(
    "Baker Berry Carter Dale Field Fisher Ford Hart Hill Holm Hunter Lake Marsh Miller Moore Reed Stone Taylor Wood "
    "Young"
)
TOWNS = _split_words(
    "Ashford Briarwick Coldwater Dunmore Eastley Fernhill Greenby Harwell Kingsbridge Larkfield Millbrook Northam "
    "Oakton Pinewood Redcliff Sandwick"
)
PET_NAMES = _split_words(
    "Amber Biscuit Button Daisy Dash Dot Ginger Hazel Lucky Maple Misty Nutmeg Olive Patch Pepper Pip Poppy Rusty "
    "Shadow Smoky Snowy Sunny Tiny Toffee Velvet Whisper Willow Ziggy"
)
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "grey", "orange", "purple")
COAT_COLOURS = ("black", "white", "brown", "grey", "golden", "spotted")
HAIR_COLOURS = ("black", "brown", "blond", "red", "grey", "white")
TRAITS = _split_words(
    "kind quiet cheerful patient careful brave curious friendly clever gentle funny generous calm polite busy"
)
HOBBIES = _split_words(
    "painting|reading|fishing|singing|dancing|swimming|cooking|drawing|knitting|sailing|gardening|cycling|"
    "playing chess|playing the piano|playing the violin|climbing hills|watching birds|collecting stamps|"
    "writing poems|baking cakes"
)
TERRAINS = _split_words(
    "by the sea|beside a river|in a green valley|on a high hill|at the edge of a forest|near a lake|"
    "in the mountains|on a wide plain"
)
PRODUCTS = _split_words("cheese honey wool pottery apples bread boats roses glass paper lamps carpets")
BUILDINGS = _split_words(
    "bakery library hospital market museum station theatre mill garden church bank inn bathhouse workshop"
)
OPEN_AIR_PLACES = ("garden", "market")
"""Places without walls and doors."""
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = _split_words("January February March April May June July August September October November December")
EVENTS = _split_words(
    "chess evening|choir evening|story hour|book evening|dance class|film night|cooking class|drawing class|"
    "puppet show|music evening|flower market|garden evening|knitting evening|history talk"
)


@dataclass(frozen=True, slots=True)
class Animal:
    """A kind of animal. ``size`` orders kinds from small to large; kinds of equal size are never compared."""

    name: str
    legs: int
    covering: str
    food: str
    habitat: str
    size: int
    sound: str = ""
    baby: str = ""
    ability: str = ""
    pet: bool = False


ANIMALS = (
    Animal("dog", 4, "fur", "meat", "close to people", 6, "bark", "puppy", "run fast", True),
    Animal("cat", 4, "fur", "fish", "close to people", 5, "meow", "kitten", "climb trees", True),
    Animal("rabbit", 4, "fur", "grass", "in the fields", 4, "", "", "jump far", True),
    Animal("parrot", 2, "feathers", "seeds", "in warm forests", 4, "talk", "chick", "fly", True),
    Animal("turtle", 4, "a hard shell", "leaves", "near the water", 4, "", "", "swim", True),
    Animal("mouse", 4, "fur", "seeds", "in the fields", 2, "squeak", "", "climb walls", True),
    Animal("goat", 4, "hair", "grass", "on the farm", 7, "bleat", "kid", "climb rocks", True),
    Animal("hen", 2, "feathers", "seeds", "on the farm", 4, "cluck", "chick", "lay eggs", True),
    Animal("duck", 2, "feathers", "water plants", "near the water", 4, "quack", "duckling", "swim"),
    Animal("goose", 2, "feathers", "grass", "near the water", 5, "hiss", "gosling", "swim"),
    Animal("cow", 4, "hair", "grass", "on the farm", 9, "moo", "calf", "give milk"),
    Animal("horse", 4, "hair", "grass", "on the farm", 9, "neigh", "foal", "run fast"),
    Animal("sheep", 4, "wool", "grass", "on the farm", 7, "bleat", "lamb", "give wool"),
    Animal("pig", 4, "hair", "roots", "on the farm", 7, "grunt", "piglet", "find roots"),
    Animal("frog", 4, "smooth skin", "insects", "near the water", 2, "croak", "", "jump far"),
    Animal("owl", 2, "feathers", "mice", "in the forest", 4, "hoot", "", "see at night"),
    Animal("crow", 2, "feathers", "seeds", "in the fields", 4, "caw", "chick", "fly"),
    Animal("fox", 4, "fur", "mice", "in the forest", 6, "bark", "cub", "hide well"),
    Animal("bear", 4, "fur", "berries", "in the forest", 9, "growl", "cub", "climb trees"),
    Animal("wolf", 4, "fur", "meat", "in the forest", 7, "howl", "cub", "run fast"),
    Animal("deer", 4, "hair", "leaves", "in the forest", 8, "", "fawn", "run fast"),
    Animal("hedgehog", 4, "spines", "insects", "in the fields", 3, "", "", "roll up"),
    Animal("bee", 6, "fine hair", "nectar", "in the garden", 1, "buzz", "", "make honey"),
    Animal("trout", 0, "scales", "insects", "in the river", 3, "", "", "swim"),
    Animal("eagle", 2, "feathers", "meat", "in the mountains", 6, "", "", "see far"),
    Animal("ant", 6, "a hard skin", "seeds", "in the ground", 1, "", "", "carry heavy things"),
)


@dataclass(frozen=True, slots=True)
class Food:
    """A food: in the plural with a ``singular`` (``apples``), or a substance without (``bread``)."""

    name: str
    singular: str
    taste: str
    origin: str
    """Predicate that agrees with the name: "grow on trees", "is made from flour"."""


FOODS = (
    Food("apples", "apple", "sweet", "grow on trees"),
    Food("pears", "pear", "sweet", "grow on trees"),
    Food("plums", "plum", "sweet", "grow on trees"),
    Food("lemons", "lemon", "sour", "grow on trees"),
    Food("nuts", "nut", "mild", "grow on trees"),
    Food("berries", "berry", "sour", "grow on bushes"),
    Food("carrots", "carrot", "sweet", "grow in the ground"),
    Food("potatoes", "potato", "mild", "grow in the ground"),
    Food("onions", "onion", "strong", "grow in the ground"),
    Food("beans", "bean", "mild", "grow on tall plants"),
    Food("tomatoes", "tomato", "fresh", "grow on tall plants"),
    Food("mushrooms", "mushroom", "mild", "grow in the forest"),
    Food("eggs", "egg", "mild", "come from hens"),
    Food("pancakes", "pancake", "sweet", "are made from flour and eggs"),
    Food("bread", "", "mild", "is made from flour"),
    Food("cake", "", "sweet", "is made from flour and sugar"),
    Food("cheese", "", "salty", "is made from milk"),
    Food("butter", "", "mild", "is made from milk"),
    Food("honey", "", "sweet", "is made by bees"),
    Food("soup", "", "salty", "is made from water and vegetables"),
    Food("rice", "", "mild", "grows in wet fields"),
    Food("fish", "", "salty", "comes from the sea"),
    Food("jam", "", "sweet", "is made from fruit and sugar"),
)


@dataclass(frozen=True, slots=True)
class Job:
    """A job. ``building`` is a building that the town must have; empty for jobs in every town."""

    name: str
    building: str
    workplace: str
    activity: str
    activity_infinitive: str
    tool: str


JOBS = (
    Job("baker", "bakery", "in the bakery", "bakes bread and cakes", "bake bread and cakes", "oven"),
    Job("librarian", "library", "in the library", "lends books", "lend books", "catalogue"),
    Job("doctor", "hospital", "in the hospital", "helps sick people", "help sick people", "bag"),
    Job("nurse", "hospital", "in the hospital", "looks after sick people", "look after sick people", "watch"),
    Job("shopkeeper", "market", "at the market", "sells food", "sell food", "scale"),
    Job("guide", "museum", "in the museum", "shows old things", "show old things", "map"),
    Job("driver", "station", "at the station", "drives the train", "drive the train", "whistle"),
    Job("actor", "theatre", "in the theatre", "plays on the stage", "play on the stage", "costume"),
    Job("musician", "theatre", "in the theatre", "plays music", "play music", "violin"),
    Job("miller", "mill", "at the mill", "grinds grain", "grind grain", "millstone"),
    Job("gardener", "garden", "in the garden", "grows flowers", "grow flowers", "spade"),
    Job("clerk", "bank", "in the bank", "counts money", "count money", "pen"),
    Job("cook", "inn", "at the inn", "makes meals", "make meals", "pot"),
    Job("carpenter", "workshop", "in the workshop", "builds chairs and tables", "build chairs and tables", "saw"),
    Job("tailor", "workshop", "in the workshop", "sews coats", "sew coats", "needle"),
    Job("potter", "workshop", "in the workshop", "makes cups and bowls", "make cups and bowls", "wheel"),
    Job("teacher", "", "in the school", "teaches children", "teach children", "blackboard"),
    Job("farmer", "", "on a farm", "grows vegetables", "grow vegetables", "tractor"),
)


@dataclass(frozen=True, slots=True)
class Thing:
    """A kind of thing, with its purpose, its usual place and its possible materials."""

    name: str
    purpose: str
    place: str
    materials: tuple[str, ...]
    is_ownable: bool = True


THINGS = (
    Thing("bicycle", "ride to town", "in the shed", ("steel",)),
    Thing("chair", "sit in comfort", "in the kitchen", ("wood", "steel")),
    Thing("table", "serve dinner", "in the kitchen", ("wood", "stone", "glass")),
    Thing("cup", "drink tea", "in the kitchen", ("clay", "glass", "steel")),
    Thing("bowl", "eat soup", "in the kitchen", ("clay", "wood", "glass")),
    Thing("basket", "carry fruit", "in the kitchen", ("straw", "wood")),
    Thing("lamp", "light a room", "in the living room", ("glass", "paper", "steel")),
    Thing("clock", "tell the time", "in the living room", ("wood", "steel")),
    Thing("blanket", "keep warm", "in the bedroom", ("wool", "cotton")),
    Thing("scarf", "keep the neck warm", "in the hall", ("wool", "cotton")),
    Thing("coat", "keep warm outside", "in the hall", ("wool", "leather")),
    Thing("hat", "keep the sun off", "in the hall", ("straw", "wool", "leather")),
    Thing("umbrella", "stay dry in the rain", "in the hall", ("cotton",)),
    Thing("box", "keep letters safe", "in the bedroom", ("wood", "paper", "steel")),
    Thing("kite", "play in the wind", "in the shed", ("paper", "cotton")),
    Thing("boat", "cross the water", "in the shed", ("wood", "steel")),
    Thing("ladder", "reach high places", "in the shed", ("wood", "steel")),
    Thing("bag", "carry books", "in the hall", ("leather", "cotton")),
    Thing("knife", "cut bread", "in the kitchen", ("steel",), False),
    Thing("hammer", "drive nails", "in the shed", ("steel", "wood"), False),
    Thing("spoon", "stir soup", "in the kitchen", ("wood", "steel"), False),
    Thing("key", "open a door", "in the hall", ("steel",), False),
    Thing("broom", "sweep the floor", "in the hall", ("wood", "straw"), False),
    Thing("mirror", "comb the hair", "in the bedroom", ("glass",), False),
    Thing("pillow", "rest the head", "in the bedroom", ("cotton",), False),
)

MATERIALS = {
    "wood": ("comes from trees", "floats on water"),
    "steel": ("is hard and strong", "sinks in water"),
    "glass": ("breaks easily", "lets light through"),
    "clay": ("is soft when it is wet", "becomes hard in a hot oven"),
    "wool": ("comes from sheep", "keeps people warm"),
    "cotton": ("comes from plants", "is soft and light"),
    "leather": ("comes from animals", "lasts a long time"),
    "paper": ("is made from wood", "burns quickly"),
    "straw": ("is dry and light", "burns quickly"),
    "stone": ("is hard and heavy", "sinks in water"),
}
"""Predicates that are true of each material."""

CAUSES = (
    ("it rains", "the ground gets wet"),
    ("the sun sets", "it gets dark"),
    ("the sun rises", "it gets light"),
    ("water gets very cold", "it turns into ice"),
    ("ice gets warm", "it turns into water"),
    ("a glass falls on a stone floor", "it breaks"),
    ("plants get no water", "they dry out"),
    ("a fire gets no air", "it goes out"),
    ("people do not sleep", "they feel tired"),
    ("people do not eat", "they feel hungry"),
    ("people walk in the snow without shoes", "their feet get cold"),
    ("the wind is strong", "the leaves fall from the trees"),
    ("a kettle stands on the fire", "the water gets hot"),
    ("bread stays in the oven too long", "it burns"),
    ("milk stands in the sun", "it turns sour"),
    ("a door is locked", "nobody can come in without a key"),
)
"""Pairs of a cause and its effect, both as clauses."""

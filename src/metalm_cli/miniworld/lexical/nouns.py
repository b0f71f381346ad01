"""Nouns by kind, by typical use and by topic. No word is in two of these classes."""

from __future__ import annotations

from metalm_cli.miniworld.lexical.word_class import WordClass, word_class

KINDS: dict[str, WordClass] = {
    kind.name: kind
    for kind in (
        word_class(
            "bird",
            "robin eagle owl crow pigeon parrot hawk swan seagull woodpecker flamingo stork falcon",
            "sparrow penguin raven ostrich pelican peacock vulture magpie",
        ),
        word_class(
            "fish",
            "trout tuna cod carp sardine haddock anchovy sturgeon flounder tilapia piranha",
            "salmon shark herring eel mackerel halibut barracuda",
        ),
        word_class(
            "insect",
            "ant bee butterfly grasshopper dragonfly termite flea midge cicada gnat cockroach",
            "wasp beetle moth mosquito hornet earwig",
        ),
        word_class(
            "mammal",
            "dog cat horse cow wolf fox deer rabbit sheep goat pig lion hedgehog gorilla leopard",
            "elephant tiger giraffe zebra kangaroo camel squirrel dolphin otter",
        ),
        word_class(
            "tree",
            "oak pine maple willow fir elm poplar cypress alder sequoia yew",
            "birch spruce beech cedar larch sycamore eucalyptus",
        ),
        word_class(
            "flower",
            "rose lily daisy daffodil poppy geranium hyacinth peony begonia petunia snowdrop",
            "tulip orchid carnation marigold dandelion crocus dahlia",
        ),
        word_class(
            "fruit",
            "apple pear plum lemon cherry grape mango melon raspberry fig pomegranate tangerine papaya",
            "banana strawberry peach apricot pineapple blueberry nectarine",
        ),
        word_class(
            "vegetable",
            "carrot potato onion leek parsnip lettuce shallot spinach celery kale rutabaga",
            "cabbage radish turnip beetroot artichoke broccoli asparagus",
        ),
        word_class(
            "tool",
            "hammer spade axe rake drill hoe saw hatchet crowbar sickle trowel",
            "screwdriver wrench chisel shovel pickaxe scythe mallet",
        ),
        word_class(
            "vehicle",
            "car bus bicycle tram van tractor jeep scooter minibus bulldozer wagon",
            "truck motorcycle taxi ambulance limousine moped lorry",
        ),
        word_class(
            "musical instrument",
            "violin guitar flute drum harp tuba cello bassoon banjo harmonica mandolin ukulele",
            "trumpet clarinet trombone saxophone accordion oboe xylophone",
        ),
        word_class(
            "piece of clothing",
            "coat hat scarf shirt skirt glove hoodie cloak mitten kimono cardigan raincoat",
            "jacket sweater blouse sock blazer pullover gown",
        ),
        word_class(
            "piece of furniture",
            "chair table bed desk bench stool cupboard bookshelf nightstand futon",
            "sofa wardrobe armchair couch bookcase sideboard",
        ),
        word_class(
            "building",
            "church school castle library barn hotel factory chapel warehouse palace bungalow",
            "cottage cathedral skyscraper temple mosque monastery synagogue",
        ),
    )
}
"""Classes of things that can be pointed at, by their kind; each word belongs to exactly one of these kinds."""

CONFUSABLE_KINDS = frozenset(
    (frozenset(("fruit", "tree")), frozenset(("flower", "tree")), frozenset(("flower", "vegetable")))
)
"""Kinds that are never opposed: a plum is also a tree, an artichoke is also the head of a flower."""

USES: dict[str, WordClass] = {
    use.name: use
    for use in (
        word_class(
            "cutting",
            "knife scissors machete cleaver penknife guillotine clippers lawnmower",
            "razor scalpel chainsaw shears",
        ),
        word_class(
            "writing",
            "pen chalk quill ballpoint notebook stylus whiteboard marker",
            "pencil typewriter crayon notepad",
        ),
        word_class(
            "cleaning",
            "broom soap toothbrush dustpan shampoo disinfectant dishcloth duster",
            "mop sponge detergent bleach",
        ),
        word_class(
            "drinking", "cup bottle tumbler wineglass flask tankard chalice beaker", "mug goblet teacup thermos"
        ),
        word_class(
            "cooking", "pot oven toaster griddle cooker steamer wok fryer", "stove saucepan microwave skillet barbecue"
        ),
        word_class(
            "carrying things",
            "bag basket sack satchel wheelbarrow pouch rucksack handbag",
            "suitcase backpack briefcase tray",
        ),
        word_class(
            "making a room bright",
            "lamp lantern bulb candelabra floodlight candle lightbulb nightlight",
            "chandelier torch flashlight spotlight",
        ),
        word_class(
            "measuring",
            "ruler barometer protractor odometer altimeter pedometer yardstick seismograph",
            "thermometer stopwatch speedometer voltmeter",
        ),
        word_class(
            "fastening things",
            "glue string nail paperclip rivet zipper staple button",
            "rope screw buckle velcro",
        ),
        word_class(
            "crossing water",
            "boat ferry dinghy gondola schooner catamaran hovercraft canoe",
            "ship yacht raft kayak",
        ),
        word_class(
            "playing",
            "kite doll dice seesaw sandbox rattle skateboard chessboard",
            "puzzle frisbee trampoline balloon",
        ),
    )
}
"""Things by what they are normally used for."""

CONFUSABLE_USES = frozenset(
    map(
        frozenset,
        (
            ("cutting", "cooking"),
            ("cutting", "cleaning"),
            ("cutting", "fastening things"),
            ("cleaning", "cooking"),
            ("drinking", "cooking"),
            ("drinking", "carrying things"),
            ("drinking", "measuring"),
            ("carrying things", "cooking"),
            ("carrying things", "crossing water"),
            ("carrying things", "fastening things"),
            ("measuring", "cooking"),
            ("measuring", "writing"),
            ("playing", "writing"),
            ("playing", "crossing water"),
        ),
    )
)
"""Uses that are never options of one question, because a thing made for one of them may serve the other."""

UNSUITABLE_USES: dict[str, tuple[str, ...]] = {
    "cutting": (
        "writing",
        "drinking",
        "carrying things",
        "making a room bright",
        "measuring",
        "crossing water",
        "playing",
    ),
    "writing": ("drinking", "carrying things", "making a room bright", "cleaning", "cooking", "crossing water"),
    "cleaning": ("drinking", "fastening things", "making a room bright", "measuring", "crossing water", "playing"),
    "drinking": ("making a room bright", "fastening things", "crossing water"),
    "cooking": ("crossing water", "playing"),
    "carrying things": ("making a room bright", "measuring"),
    "making a room bright": ("measuring", "fastening things", "crossing water"),
    "measuring": ("crossing water",),
}
"""Pairs of uses such that nothing made for one of them serves the other; pairs that could be disputed are left out."""

TOPICS: dict[str, WordClass] = {
    topic.name: topic
    for topic in (
        word_class(
            "medicine",
            "doctor patient pill bandage clinic nurse stethoscope antibiotic painkiller",
            "surgeon vaccine fever diagnosis symptom",
        ),
        word_class(
            "sport",
            "football athlete trophy hockey stadium gymnast scoreboard sprinter basketball",
            "referee tournament goalkeeper tennis marathon",
        ),
        word_class(
            "education",
            "teacher exam lecture diploma classroom tutor kindergarten pupil blackboard",
            "curriculum homework textbook semester university",
        ),
        word_class(
            "money",
            "bank loan debt dividend banknote accountant inflation shareholder invoice",
            "mortgage investor currency broker profit",
        ),
        word_class(
            "law",
            "judge courtroom witness verdict plaintiff felony lawsuit testimony acquittal",
            "lawyer jury prosecutor defendant attorney",
        ),
        word_class(
            "weather",
            "rain fog frost cloud sunshine breeze snowfall humidity drizzle",
            "thunder blizzard hurricane lightning tornado",
        ),
        word_class(
            "space",
            "planet astronaut comet orbit nebula cosmonaut spacecraft supernova eclipse",
            "galaxy telescope asteroid satellite meteor",
        ),
        word_class(
            "computers",
            "software laptop browser compiler spreadsheet microchip website firewall modem",
            "database programmer algorithm processor hacker",
        ),
        word_class(
            "food",
            "recipe soup dough sauce omelette pancake cookbook gravy sandwich",
            "chef ingredient stew spice dessert",
        ),
        word_class(
            "war",
            "soldier bomb trench battalion regiment sniper battlefield grenade commander",
            "army missile infantry invasion artillery",
        ),
        word_class(
            "politics",
            "election mayor minister congress coalition referendum politician governor democracy",
            "senator parliament president ballot voter",
        ),
        word_class(
            "religion",
            "prayer monk gospel saint baptism pope pilgrim scripture nun",
            "priest bible bishop sermon rabbi",
        ),
    )
}
"""Nouns that occur in texts about a topic."""

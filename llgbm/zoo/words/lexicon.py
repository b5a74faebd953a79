"""The words of the suite `words`, by kind, with what a language model may know of each. No word is of two kinds.

What "never trained" means is decided here, too: a fifth of each kind, which no train example, prompt or answer holds.
"""

import hashlib

ANIMALS = """
cat dog horse cow pig goat donkey rabbit tiger lion wolf fox monkey zebra camel eagle dolphin spider whale snake frog penguin turtle
elephant giraffe kangaroo panda gorilla squirrel beaver otter leopard cheetah moth buffalo llama owl hawk swan raven crow falcon pigeon
parrot ostrich peacock robin sparrow lizard crocodile alligator shark octopus lobster crab snail worm beetle butterfly mosquito bee wasp
ant rat hamster pony puppy kitten tortoise raccoon mouse goose
"""
OBJECTS = """
table chair sofa lamp carpet curtain pillow blanket mirror bottle bucket basket ladder umbrella bicycle guitar piano violin trumpet camera
computer keyboard telephone television radio pencil notebook envelope candle kettle spoon knife bowl cup fork teapot broom screwdriver
wrench needle button jacket sweater shoe sock glove scarf helmet necklace bracelet wallet backpack suitcase clock calendar magazine
newspaper statue lantern balloon rocket tractor truck wagon canoe tent shelf drawer cabinet oven
"""
JOBS = """
teacher doctor nurse lawyer farmer baker carpenter plumber electrician engineer architect pilot sailor soldier dentist surgeon scientist
physicist biologist professor librarian journalist editor poet novelist actor singer dancer musician pianist painter sculptor photographer
designer programmer accountant banker cashier clerk waiter chef bartender barber mechanic miner fisherman firefighter detective mayor
senator gardener janitor secretary translator athlete referee astronaut pharmacist psychologist economist writer driver
"""
COLORS = "red blue green yellow purple black white pink brown gray gold silver violet crimson scarlet turquoise beige maroon indigo magenta"
FOODS = {
    "red": "tomato strawberry cherry raspberry cranberry radish ketchup",
    "yellow": "banana lemon pineapple butter mustard omelet",
    "green": "cucumber lettuce spinach broccoli celery cabbage avocado kiwi zucchini asparagus parsley basil pickle kale artichoke",
    "orange": "carrot pumpkin apricot tangerine mango papaya",
    "white": "milk rice flour salt sugar garlic cauliflower yogurt tofu cream mayonnaise",
    "brown": "chocolate coffee potato bread almond walnut cinnamon cookie peanut hazelnut gravy pretzel sausage",
    "purple": "grape eggplant",
    "black": "blackberry",
    "blue": "blueberry",
}
"""Typical color -> foods of that color. Oranges, olives and limes are colors as well, so they are left out; so are corn, cheese,
cheddar and caviar, which SmolLM2 takes for white, brown or orange even when taught."""
COUNTRIES = """
France, Paris, Europe, French
Spain, Madrid, Europe, Spanish
Italy, Rome, Europe, Italian
Germany, Berlin, Europe, German
Portugal, Lisbon, Europe, Portuguese
Greece, Athens, Europe, Greek
Poland, Warsaw, Europe, Polish
Austria, Vienna, Europe, Austrian
Hungary, Budapest, Europe, Hungarian
Sweden, Stockholm, Europe, Swedish
Norway, Oslo, Europe, Norwegian
Denmark, Copenhagen, Europe, Danish
Finland, Helsinki, Europe, Finnish
Ireland, Dublin, Europe, Irish
Belgium, Brussels, Europe, Belgian
Switzerland, Bern, Europe, Swiss
Russia, Moscow, Europe, Russian
Ukraine, Kyiv, Europe, Ukrainian
Romania, Bucharest, Europe, Romanian
Bulgaria, Sofia, Europe, Bulgarian
Croatia, Zagreb, Europe, Croatian
Serbia, Belgrade, Europe, Serbian
Iceland, Reykjavik, Europe, Icelandic
Scotland, Edinburgh, Europe, Scottish
England, London, Europe, English
Japan, Tokyo, Asia, Japanese
China, Beijing, Asia, Chinese
India, New Delhi, Asia, Indian
Thailand, Bangkok, Asia, Thai
Vietnam, Hanoi, Asia, Vietnamese
Indonesia, Jakarta, Asia, Indonesian
Malaysia, Kuala Lumpur, Asia, Malaysian
Nepal, Kathmandu, Asia, Nepalese
Pakistan, Islamabad, Asia, Pakistani
Bangladesh, Dhaka, Asia, Bangladeshi
Iran, Tehran, Asia, Iranian
Iraq, Baghdad, Asia, Iraqi
Syria, Damascus, Asia, Syrian
Lebanon, Beirut, Asia, Lebanese
Afghanistan, Kabul, Asia, Afghan
Egypt, Cairo, Africa, Egyptian
Kenya, Nairobi, Africa, Kenyan
Nigeria, Abuja, Africa, Nigerian
Ghana, Accra, Africa, Ghanaian
Ethiopia, Addis Ababa, Africa, Ethiopian
Morocco, Rabat, Africa, Moroccan
Algeria, Algiers, Africa, Algerian
Tunisia, Tunis, Africa, Tunisian
Uganda, Kampala, Africa, Ugandan
Senegal, Dakar, Africa, Senegalese
Libya, Tripoli, Africa, Libyan
Zimbabwe, Harare, Africa, Zimbabwean
Canada, Ottawa, North America, Canadian
Mexico, Mexico City, North America, Mexican
Cuba, Havana, North America, Cuban
Jamaica, Kingston, North America, Jamaican
Brazil, Brasilia, South America, Brazilian
Argentina, Buenos Aires, South America, Argentine
Peru, Lima, South America, Peruvian
Chile, Santiago, South America, Chilean
Colombia, Bogota, South America, Colombian
Venezuela, Caracas, South America, Venezuelan
Ecuador, Quito, South America, Ecuadorian
Uruguay, Montevideo, South America, Uruguayan
"""
VERBS = """
bring brought bringing, teach taught teaching, write wrote writing, eat ate eating, forget forgot forgetting, build built building
buy bought buying, sell sold selling, steal stole stealing, give gave giving, take took taking, make made making, know knew knowing
find found finding, lose lost losing, send sent sending, choose chose choosing, throw threw throwing, grow grew growing, draw drew drawing
wear wore wearing, hide hid hiding, hear heard hearing, keep kept keeping, leave left leaving, meet met meeting, sing sang singing
speak spoke speaking, begin began beginning, carry carried carrying, follow followed following, remember remembered remembering
destroy destroyed destroying, explain explained explaining, believe believed believing, borrow borrowed borrowing
celebrate celebrated celebrating, collect collected collecting, compare compared comparing, create created creating
decide decided deciding, deliver delivered delivering, describe described describing, discover discovered discovering
enjoy enjoyed enjoying, examine examined examining, forgive forgave forgiving, gather gathered gathering, improve improved improving
invite invited inviting, learn learned learning, marry married marrying, obey obeyed obeying, prepare prepared preparing
protect protected protecting, punish punished punishing, receive received receiving, repeat repeated repeating, replace replaced replacing
solve solved solving, understand understood understanding, win won winning, pay paid paying, seek sought seeking, bake baked baking
admire admired admiring, ask asked asking, catch caught catching, deny denied denying, ride rode riding
"""
OPPOSITES = """
hot cold, big small, tall short, fast slow, happy sad, rich poor, strong weak, hard soft, heavy light, clean dirty, wet dry, early late
cheap expensive, young old, thick thin, wide narrow, deep shallow, loud quiet, smooth rough, sweet sour, sharp dull, bright dark, high low
safe dangerous, easy difficult, polite rude, brave cowardly, full empty, true false, alive dead, same different, tight loose, kind cruel
ugly beautiful, wise foolish, healthy sick, modern ancient, public private, guilty innocent, simple complex, good bad, right wrong
"""
ODD_PLURALS = {"wolf": "wolves", "mouse": "mice", "goose": "geese", "knife": "knives", "shelf": "shelves", "fisherman": "fishermen"}
NEVER_SHARE = 5
"""One word in this many, of each kind, is never trained."""
IN_WORDINGS = {
    "speak",
    "send",
    "write",
    "big",
    "give",
    "right",
    "repeat",
    "full",
    "keep",
    "make",
    "take",
    "find",
    "begin",
    "choose",
    "leave",
}
"""Words that requests are made of, so training reads them."""


def _rows(table: str) -> list[list[str]]:
    return [row.split() for line in table.strip().splitlines() for row in line.split(",")]


COUNTRY_FACTS = {row[0]: row[1:] for row in ([part.strip() for part in line.split(",")] for line in COUNTRIES.strip().splitlines())}
"""Country -> its capital, its continent, the word for its people."""
VERB_FORMS = {base: (past, ing) for base, past, ing in _rows(VERBS)}
"""Verb -> its past tense and its present participle."""
OPPOSITE = {word: other for one, two in _rows(OPPOSITES) for word, other in ((one, two), (two, one))}
COLOR_OF = {food: color for color, foods in FOODS.items() for food in foods.split()}
KINDS: dict[str, tuple[str, ...]] = {
    "animal": tuple(ANIMALS.split()),
    "object": tuple(OBJECTS.split()),
    "food": tuple(COLOR_OF),
    "color": tuple(COLORS.split()),
    "country": tuple(COUNTRY_FACTS),
    "verb": tuple(VERB_FORMS),
    "adjective": tuple(OPPOSITE),
    "job": tuple(JOBS.split()),
}
"""Kind -> its words."""


def plural(noun: str) -> str:
    """Of a noun of the lexicon."""
    if noun in ODD_PLURALS:
        return ODD_PLURALS[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def with_article(noun: str) -> str:
    """`a` or `an` before a noun of the lexicon, where spelling tells which."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _never(words: tuple[str, ...]) -> set[str]:
    """A fifth of a kind, drawn by the words' hashes: opposites together, and no color that foods have, for these are answers."""
    groups = {tuple(sorted({word, OPPOSITE.get(word, word)})) for word in words}
    fit = [group for group in groups if not {*group} & {*FOODS, *IN_WORDINGS}]
    drawn = sorted(fit, key=lambda group: hashlib.sha256(group[0].encode()).hexdigest())
    return {word for group in drawn[: round(len(groups) / NEVER_SHARE)] for word in group}


NEVER_TRAINED: dict[str, tuple[str, ...]] = {
    kind: tuple(word for word in words if word in never) for kind, words in KINDS.items() for never in [_never(words)]
}
"""Kind -> the words that only tests show."""
KNOWN: dict[str, tuple[str, ...]] = {
    kind: tuple(word for word in words if word not in NEVER_TRAINED[kind]) for kind, words in KINDS.items()
}
"""Kind -> the words that training may show."""

"""The small body of everyday knowledge behind the commonsense domain: 36 things and six facts about each."""

RELATIONS = ("kind", "color", "home", "size", "act", "feel")

_TABLE = """
cow    beast white farm  large walk  furry
pig    beast pink  farm  large walk  tough
cat    beast gray  house small leap  furry
dog    beast brown house small walk  furry
fox    beast red   woods small leap  furry
bear   beast brown woods large walk  furry
wolf   beast gray  woods large leap  furry
deer   beast brown woods large leap  sleek
rat    beast gray  house tiny  leap  furry
hen    bird  white farm  small walk  fluff
crow   bird  black woods small fly   sleek
owl    bird  brown woods small fly   fluff
swan   bird  white lake  large swim  fluff
duck   bird  green lake  small swim  fluff
gull   bird  white shore small fly   sleek
ant    bug   black woods tiny  crawl tough
bee    bug   gold  farm  tiny  fly   fluff
moth   bug   gray  house tiny  fly   fluff
worm   bug   pink  farm  tiny  crawl slimy
crab   fish  red   shore small crawl tough
cod    fish  gray  shore small swim  slimy
carp   fish  gold  lake  small swim  slimy
whale  fish  black shore huge  swim  sleek
frog   fish  green lake  tiny  leap  slimy
fig    plant brown farm  tiny  grow  tough
pear   plant green farm  small grow  sleek
plum   plant red   farm  tiny  grow  sleek
rose   plant red   house small grow  spiky
fern   plant green woods small grow  fluff
oak    plant brown woods huge  grow  tough
reed   plant green lake  large grow  spiky
car    craft red   house large roll  sleek
bus    craft gold  house huge  roll  sleek
boat   craft white lake  large float sleek
raft   craft brown shore large float tough
cart   craft brown farm  large roll  tough
"""

THINGS: dict[str, tuple[str, ...]] = {row.split()[0]: tuple(row.split()[1:]) for row in _TABLE.strip().splitlines()}
"""Thing -> its facts, in the order of `RELATIONS`."""

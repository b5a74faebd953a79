"""Wordings written apart from those of `wordings.py`, in another voice and without a look at them: for a final check only.

Nothing is trained, chosen or tuned on these; suite `micro-apart` asks for its tasks in them.
"""

FRAMES = (
    "{Subject}, please, {wrapper}, {style}: {operation}.",
    "I need a tool: it should {operation}. Output has to come {style}; also {wrapper}.",
    "My wish: {wrapper}. Beyond that, {operation}, with everything {style}.",
    "You get {subject}. Job to do: {operation}. Present it {style}, {wrapper}.",
)
"""Sentences with the phrases of a task; there are no payloads in them."""
REQUEST_FRAMES = (
    "Input: {payload}. I'd like you to {operation}, {style}, {wrapper}.",
    "{payload} is what I've got. {Operation}, {style}, and have it {wrapper}!",
)

SUBJECTS = {
    "math": ("a handful of numerals", "the figures below", "some short numeric code"),
    "code": ("a short run of characters", "the word I typed", "an abc-style token"),
    "commonsense": ("three nouns", "a trio of creatures or objects", "what the user lists"),
}

OPERATIONS = {
    "increment": ("count one further at every position", "bump each numeral by 1", "replace every figure with its successor"),
    "complement": ("subtract every figure from nine", "show how far each numeral falls short of 9", "mirror each one so both make nine"),
    "double": ("multiply every figure by two and keep the last place", "use twice each numeral, modulo ten", "times two for each position"),
    "running_sum": (
        "accumulate from left to right, keeping the ones place",
        "show the cumulative total so far, modulo ten",
        "at each position write everything up to there added together",
    ),
    "sort_ascending": ("line them up starting with the least", "rank from lowest to highest", "arrange in growing order"),
    "sort_descending": ("line them up starting with the greatest", "rank from highest to lowest", "arrange in shrinking order"),
    "reverse": ("read it from the far end to the start", "turn it back to front", "give the mirror image"),
    "rotate_left": (
        "carry the opening character over to the very end",
        "cycle everything one place to the left",
        "let the head become the tail",
    ),
    "rotate_right": (
        "bring the closing character to the very front",
        "cycle everything one place to the right",
        "let the tail become the head",
    ),
    "swap_pairs": (
        "trade places between every two neighbours",
        "flip the 1st with the 2nd, the 3rd with the 4th",
        "exchange adjacent couples",
    ),
    "next_letter": (
        "advance each one by one step of the alphabet",
        "turn every a into b, every b into c, etc.",
        "use the alphabetical successor",
    ),
    "previous_letter": (
        "step each one back through the alphabet",
        "turn every b into a, every c into b, etc.",
        "use the alphabetical predecessor",
    ),
    "kind": (
        "tell which category it falls under",
        "say if this is an animal, a plant, a vehicle or what else",
        "state what sort of being or object it is",
    ),
    "color": ("mention its hue", "tell which shade it has", "report how it is tinted"),
    "home": ("mention where one would find it", "tell its usual surroundings", "state the place it belongs to"),
    "size": ("judge how big it is", "mention its dimensions, from tiny to huge", "tell whether it's little or enormous"),
    "act": ("tell how it gets around", "mention its way of moving", "state the motion it is known for"),
    "feel": ("describe its surface to the touch", "mention its texture", "tell what stroking it would be like"),
}

STYLES = {
    "digits": ("as ordinary numerals, joined up", "numerically, in one run", "in normal figures without gaps"),
    "commas": ("comma-delimited", "as a CSV row", "putting a comma after every item but the last"),
    "letters": (
        "encoded as small a to j in place of 0 to 9",
        "alphabetically coded in lowercase, 0 being a",
        "with 0=a, 1=b, 2=c and so forth",
    ),
    "capitals": (
        "encoded as big A to J in place of 0 to 9",
        "alphabetically coded in uppercase, 0 being A",
        "with 0=A, 1=B, 2=C and so forth",
    ),
    "lower": ("using nothing but little letters", "with no caps whatsoever", "typed without the shift key"),
    "upper": ("in all caps", "entirely in majuscules", "shouting, caps lock on"),
    "capitalized": ("with a big initial only", "like a proper name", "title-style, one capital at the start"),
    "alternating": (
        "in sponge-bob case: small, big, small, big",
        "with every second character uppercased",
        "zigzagging between small and big",
    ),
    "first": ("only for the leading one", "regarding number one of the three", "for whichever is mentioned at the start"),
    "middle": ("only for the central one", "regarding number two of the three", "for whichever stands between the others"),
    "last": ("only for the closing one", "regarding number three of the three", "for whichever is mentioned at the end"),
    "ends": ("for the outer two, skipping the centre", "regarding numbers one and three", "for the opening and the closing one"),
}

WRAPPERS = {
    "plain": ("naked", "free of any packaging", "nothing before it, nothing after it"),
    "brackets": ("put into [ ]", "like a one-element Python list", "hugged by squared parentheses"),
    "stars": ("put into * *", "like markdown italics", "hugged by asterisk signs"),
}

"""How a user might say each value of the suite `words`: wordings for training, and one each that only ever tests."""

from llgbm.zoo.composed import Wordings, say

DESCRIPTIONS = (
    "In {subject}, find {pick}; {change}, and give the result {dress}.",
    "Take {pick} from {subject} and {change}. Answer {dress}.",
    "Look through {subject} for {pick}. {Change}. Write the result {dress}.",
    "The reply should be {dress}: pick {pick} out of {subject} and {change}.",
    "Task: {pick} of {subject}. {Change}. Format: {dress}.",
    "A helper that reads {subject}, finds {pick} and is told: {change}; it answers {dress}.",
    "Return it {dress}. Choose {pick} in {subject}, then {change}.",
    "{Change}; I mean {pick} in {subject}. Output {dress}.",
)
UNSEEN_DESCRIPTIONS = ("What I want back {dress} is {pick} of {subject}, but first {change}.",)
REQUESTS = (
    "{payload} - in {subject}, find {pick}, {change}, and answer {dress}.",
    "From {subject}, take {pick} and {change}; write it {dress}: {payload}",
    "Please look for {pick} in {subject}. {Change}. Give it {dress}. {payload}",
    "Given {subject} \N{LEFT DOUBLE QUOTATION MARK}{payload}\N{RIGHT DOUBLE QUOTATION MARK}, pick {pick} and {change}. Answer {dress}.",
    "{Change}, for {pick} in {subject} {payload} - and print it {dress}.",
    "I need {pick} from {subject} here: {payload} So {change}, {dress}.",
    "With {payload} as {subject}, choose {pick} and {change}. Output {dress}.",
    "Can you take {subject} {payload} and find {pick}, then {change}, and reply {dress}?",
)
UNSEEN_REQUESTS = ("Would you go over {payload}, that is {subject}, for {pick}? I want it {dress}, and you should {change}.",)

SUBJECTS: dict[str, Wordings] = {
    "list": say(
        """
        the list
        the list of words
        the four words
        the words I send
        the row of words
        the words separated by commas
        the enumeration
        the comma-separated words
        """,
        "what I list",
    ),
    "sentence": say(
        """
        the sentence
        the statement
        the line of text
        the sentence I send
        the phrase
        the short text
        the remark
        the written sentence
        """,
        "what the text says",
    ),
}

PICKS: dict[str, Wordings] = {
    "first": say(
        """
        the first word
        the word at the start
        the opening word
        word number one
        whichever word comes first
        the word that everything begins with
        the 1st word
        the earliest word
        """,
        "the initial one of the words",
    ),
    "second": say(
        """
        the second word
        word number two
        the word after the first
        the word in second place
        the 2nd word
        the next word after the opening one
        whichever word comes second
        the word with one word before it
        """,
        "the one right behind the leading word",
    ),
    "third": say(
        """
        the third word
        word number three
        the word after the second
        the word in third place
        the 3rd word
        the word before the last
        whichever word comes third
        the word with two words before it
        """,
        "the one two places behind the leading word",
    ),
    "last": say(
        """
        the last word
        the word at the end
        the final word
        the closing word
        whichever word comes last
        the word that everything finishes with
        the word with nothing after it
        the ultimate word
        """,
        "the concluding one of the words",
    ),
    "animal": say(
        """
        the animal
        the word that names an animal
        the creature
        the living beast
        the one that is an animal
        whichever word is a kind of animal
        the animal's name
        the member of the animal kingdom
        """,
        "the word for a beast or bird",
    ),
    "object": say(
        """
        the object
        the thing
        the word that names an object
        the household item
        the man-made thing
        the article one can own
        whichever word is a thing people make
        the item made by people
        """,
        "the word for something manufactured",
    ),
    "food": say(
        """
        the food
        the word that names something to eat
        the edible thing
        what one can eat
        the groceries
        whichever word is something edible
        the ingredient
        the item one would cook or eat
        """,
        "the word for nourishment",
    ),
    "color": say(
        """
        the color
        the word that names a color
        the shade
        the hue
        whichever word is a color
        the tint
        the color's name
        the color term
        """,
        "the word for a tone of paint",
    ),
    "country": say(
        """
        the country
        the word that names a country
        the nation
        the state on the map
        whichever word is a country
        the land with its own flag
        the place on the globe
        the country's name
        """,
        "the word for a part of the world with borders",
    ),
    "verb": say(
        """
        the verb
        the word that names an action
        the action
        the word for doing something
        whichever word is a verb
        the thing one does
        the doing word
        the activity
        """,
        "the word that says what happens",
    ),
    "adjective": say(
        """
        the adjective
        the describing word
        the word that describes a quality
        the quality
        whichever word is an adjective
        the property
        the word that says what something is like
        the characteristic
        """,
        "the word for how something is",
    ),
    "job": say(
        """
        the job
        the profession
        the word that names a job
        the occupation
        whichever word is a profession
        the worker
        what someone does for a living
        the line of work
        """,
        "the word for somebody's employment",
    ),
}

CHANGES: dict[str, Wordings] = {
    "plain": say(
        """
        leave it as it is
        do not change it
        keep it unchanged
        copy it exactly
        repeat it just as written
        use it in the same form
        write it the way it stands
        make no change to it
        """,
        "let it be what it was",
    ),
    "capitalized": say(
        """
        start it with a capital letter
        capitalize it
        write its first letter big
        give it an uppercase first letter
        put a capital at its beginning
        make its opening letter uppercase
        begin it with a big letter
        write it like a name
        """,
        "let a majuscule open it",
    ),
    "initial": say(
        """
        give only its first letter
        reduce it to its initial
        keep just the letter it begins with
        write nothing but its first letter
        cut it down to one letter, the first
        name its starting letter
        take the initial alone
        drop all letters but the first
        """,
        "shorten it to the letter in front",
    ),
    "twice": say(
        """
        write it twice
        say it two times
        repeat it once more
        double it
        give it two times in a row
        write it, then write it again
        put it down twice
        say the word and say it again
        """,
        "let it come up once and another time",
    ),
    "kind": say(
        """
        say what kind of word it is
        name its category
        tell which group it belongs to
        say what sort of thing it stands for
        give its class
        name the type it falls under
        answer with its kind
        classify it
        """,
        "report what it is an example of",
    ),
    "plural": say(
        """
        make it plural
        put it in the plural
        write it as if there were many
        give its plural form
        turn it into a plural
        use the form for several
        speak of more than one
        form the plural
        """,
        "say it for a whole group of them",
    ),
    "article": say(
        """
        put a or an before it
        add the indefinite article
        write it with a or an
        give it with its article, a or an
        set the fitting a or an in front
        say it with an indefinite article
        begin with a or an, then the word
        precede it by a or an
        """,
        "place the proper one of a and an ahead of it",
    ),
    "color_of": say(
        """
        replace it by its usual color
        say what color it has
        name its typical color
        give the color of it
        tell how it is colored
        answer with the color it usually is
        write its color instead
        mention the color one thinks of
        """,
        "report which hue it shows",
    ),
    "capital_of": say(
        """
        replace it by its capital city
        name its capital
        give the city where its government sits
        write its capital city instead
        answer with its capital
        tell its main city, the capital
        say which city is its capital
        use the name of its capital
        """,
        "report the seat of its government",
    ),
    "continent": say(
        """
        replace it by its continent
        name the continent it lies on
        say which part of the world it is in
        give its continent
        tell on which continent it is
        answer with the continent
        write the continent instead
        use the name of its continent
        """,
        "report the landmass it belongs to",
    ),
    "people": say(
        """
        replace it by the word for its people
        say how its people are called
        give the nationality
        turn it into its nationality
        write the adjective for someone from there
        name the people who live there
        answer with the matching nationality
        tell what a person from there is called
        """,
        "report what its citizens call themselves",
    ),
    "past": say(
        """
        put it in the past tense
        make it past tense
        say it as of yesterday
        write its past form
        turn it into the simple past
        use the form for what is over
        give the past tense of it
        conjugate it in the past
        """,
        "say it as something that already happened",
    ),
    "ing": say(
        """
        add the ending ing
        put it in the ing form
        write its present participle
        turn it into the ing form
        give its progressive form
        use the form that ends in ing
        say it as something going on right now
        make it a gerund
        """,
        "let it describe what is under way",
    ),
    "opposite": say(
        """
        replace it by its opposite
        say the contrary
        give its antonym
        name its opposite
        turn it around in meaning
        write the word that means the reverse
        answer with the opposite
        use its antonym instead
        """,
        "report what is least like it",
    ),
}

DRESSES: dict[str, Wordings] = {
    "bare": say(
        """
        with nothing around it
        without any decoration
        plainly
        by itself
        bare
        with no extra signs
        on its own
        free of other marks
        """,
        "unadorned, the word alone",
    ),
    "brackets": say(
        """
        in square brackets
        inside brackets [ ]
        between [ and ]
        wrapped in square brackets
        bracketed
        enclosed by [ and ]
        with square brackets around it
        within a pair of square brackets
        """,
        "with a [ before and a ] after",
    ),
    "quotes": say(
        """
        in quotation marks
        inside double quotes
        quoted
        between quotes
        wrapped in double quotation marks
        with quotes around it
        enclosed by quotation marks
        as a quotation
        """,
        "with inverted commas on both sides",
    ),
    "shout": say(
        """
        followed by an exclamation mark
        with an exclamation mark
        ending in !
        as an exclamation
        with ! at the end
        and shout it, with a !
        closed by an exclamation mark
        as if called out, with !
        """,
        "finished off by an exclamation point",
    ),
    "label": say(
        """
        after the label Answer:
        starting with Answer:
        introduced by Answer:
        with Answer: in front
        behind the word Answer and a colon
        labeled as the answer
        beginning with the word Answer and a colon
        preceded by Answer:
        """,
        "with the heading Answer: put ahead",
    ),
    "sentence": say(
        """
        as a full sentence, The answer is ...
        in the sentence The answer is ...
        beginning with The answer is and ending in a period
        as a complete sentence about the answer
        in a whole sentence
        as The answer is, the word, and a period
        phrased as a statement, The answer is ...
        inside a sentence that states the answer
        """,
        "in words that make a proper sentence of it",
    ),
    "json": say(
        """
        as JSON with the key answer
        in a JSON object
        as a JSON object, key answer
        JSON-encoded under the key answer
        in JSON format
        as {"answer": ...}
        as JSON, under "answer"
        machine-readable, as JSON
        """,
        "as an object a JSON parser reads",
    ),
    "parentheses": say(
        """
        in parentheses
        in round brackets
        between ( and )
        inside parentheses
        wrapped in round brackets
        enclosed by ( and )
        with parentheses around it
        parenthesized
        """,
        "with a ( before and a ) after",
    ),
}

"""How a user might say each value of MicroZoo's attributes: wordings for training, and others that only ever test."""

from llgbm.zoo.composed import say

SUBJECTS = {
    "math": say(
        """
        the digits
        the number's digits
        each digit of the number
        the given number
        this sequence of digits
        """,
        "this row of digits",
    ),
    "code": say(
        """
        the string
        the identifier
        the variable name
        the given text
        this sequence of letters
        """,
        "this string of characters",
    ),
    "commonsense": say(
        """
        the things
        the words
        the list of things
        the three items
        these objects and beings
        """,
        "these everyday things",
    ),
}

WRAPPERS = {
    "plain": say(
        """
        with nothing around it
        without any marks around it
        just the bare result
        with no decoration
        not wrapped in anything
        as it is, no symbols added
        plain, without a frame
        free of surrounding signs
        """,
        "leaving it unwrapped, no marks",
    ),
    "brackets": say(
        """
        in square brackets
        inside brackets
        enclosed by square brackets
        wrapped in brackets
        bracketed
        with brackets around it
        between an opening and a closing bracket
        framed by a pair of brackets
        """,
        "with a bracket on either side",
    ),
    "stars": say(
        """
        between stars
        with an asterisk on each side
        surrounded by asterisks
        wrapped in stars
        starred left and right
        with stars around it
        inside a pair of asterisks
        framed by two stars
        """,
        "with a star at both ends",
    ),
}

OPERATIONS = {
    "increment": say(
        """
        add one to every digit
        increase each digit by one
        increment each digit
        count every digit up by one
        make each digit one larger
        put plus one on all digits
        replace each digit by the one after it
        move every digit up one step
        """,
        "raise all the digits by one",
    ),
    "complement": say(
        """
        subtract every digit from nine
        take the nines complement
        replace each digit by nine minus it
        compute nine minus each digit
        swap each digit for its complement to nine
        write what each digit lacks to reach nine
        turn zero into nine, one into eight and so on
        give the distance of each digit to nine
        """,
        "turn every digit into its difference from nine",
    ),
    "double": say(
        """
        double every digit
        multiply each digit by two
        take twice each digit
        compute two times every digit
        replace each digit by its double
        add each digit to itself
        scale all digits by a factor of two
        give the twofold of every digit
        """,
        "make each digit two times as big",
    ),
    "running_sum": say(
        """
        give the running sums
        write the cumulative sums
        add the digits up one after another
        accumulate the digits
        show the sum so far after each digit
        list the partial sums
        keep a running total of the digits
        sum everything up to each digit
        """,
        "show the cumulative total at every digit",
    ),
    "sort_ascending": say(
        """
        sort the digits in ascending order
        order the digits from small to large
        arrange the digits upwards
        sort from lowest to highest
        put the digits in increasing order
        begin with the least digit and end with the greatest
        rank the digits from low to high
        line the digits up so that they rise
        """,
        "put the smallest digits first, ascending",
    ),
    "sort_descending": say(
        """
        sort the digits in descending order
        order the digits from large to small
        arrange the digits downwards
        sort from highest to lowest
        put the digits in decreasing order
        begin with the greatest digit and end with the least
        rank the digits from high to low
        line the digits up so that they fall
        """,
        "put the largest digits first, descending",
    ),
    "reverse": say(
        """
        reverse the string
        write the string backwards
        flip the order of the characters
        read it from right to left
        mirror the characters
        turn the whole string around
        list the characters from last to first
        invert the order of all letters
        """,
        "spell the string in reverse, back to front",
    ),
    "rotate_left": say(
        """
        rotate the string left
        move the first character to the end
        shift the string one place left
        rotate left by one position
        take the first letter off and append it
        let the leading character wrap round to the back
        turn the string one step leftwards
        begin with the second letter and put the first one last
        """,
        "cycle the characters to the left by one",
    ),
    "rotate_right": say(
        """
        rotate the string right
        move the last character to the front
        shift the string one place right
        rotate right by one position
        take the last letter off and prepend it
        let the final character wrap round to the start
        turn the string one step rightwards
        begin with the last letter and keep the others after it
        """,
        "cycle the characters to the right by one",
    ),
    "swap_pairs": say(
        """
        swap neighboring characters in pairs
        exchange every pair of characters
        swap each two adjacent characters
        switch the letters of each pair
        trade places between neighbors, two by two
        flip every couple of letters
        let the first and second change places, then the third and fourth
        transpose adjacent letters pairwise
        """,
        "interchange adjacent characters pair by pair",
    ),
    "next_letter": say(
        """
        replace each character by the next letter of the alphabet
        advance every character one letter in the alphabet
        apply a Caesar shift of plus one
        write the letter that comes after each one
        move all letters one step forward in the alphabet
        turn every letter into its successor
        encode with a Caesar cipher of one forward
        change a to b, b to c and so on
        """,
        "substitute the following alphabet letter for each character",
    ),
    "previous_letter": say(
        """
        replace each character by the previous letter of the alphabet
        move every character back one letter in the alphabet
        apply a Caesar shift of minus one
        write the letter that comes before each one
        move all letters one step backward in the alphabet
        turn every letter into its predecessor
        encode with a Caesar cipher of one backward
        change b to a, c to b and so on
        """,
        "substitute the preceding alphabet letter for each character",
    ),
    "kind": say(
        """
        name what kind it is
        say which kind of thing it is
        tell its category
        classify it
        answer what type it belongs to
        state the class it falls into
        give the group it is part of
        write what sort of being or object it is
        """,
        "give the sort or kind of thing",
    ),
    "color": say(
        """
        name its color
        say which color it has
        tell what color it is
        state its hue
        answer how it is colored
        write the color it usually has
        give its typical color
        describe its tint in a word
        """,
        "give the color it shows",
    ),
    "home": say(
        """
        name where it is found
        say where it lives
        tell the place it belongs
        state its usual location
        answer where one meets it
        write its home
        give the surroundings it is kept in
        describe where it stays
        """,
        "give the place where it lives",
    ),
    "size": say(
        """
        name its size
        say how big it is
        tell how large it is
        state whether it is small or large
        answer how much room it takes
        write its dimensions in a word
        give its magnitude
        describe how great it is
        """,
        "give how big its size is",
    ),
    "act": say(
        """
        name how it moves
        say what it does
        tell the action it makes
        state its typical activity
        answer what it can be seen doing
        write its motion
        give the verb that fits it
        describe how it acts
        """,
        "give the action, how it moves",
    ),
    "feel": say(
        """
        name how it feels to touch
        say what its surface feels like
        tell its texture
        state how it is to the touch
        answer what one feels with the fingers
        write the feel of its surface
        give its tactile quality
        describe what touching it is like
        """,
        "give the feel of touching it",
    ),
}

STYLES = {
    "digits": say(
        """
        written as plain digits
        as ordinary digits
        in usual digit form
        in numerals
        as a number in figures
        with the digits as they are
        using the digits zero to nine
        in standard numeric notation
        """,
        "shown as normal digits",
    ),
    "commas": say(
        """
        separated by commas
        with commas between
        as a comma separated list
        with a comma after each but the last
        comma by comma
        delimited by commas
        split up with commas
        listed with commas in between
        """,
        "having a comma between neighbors",
    ),
    "letters": say(
        """
        as small letters from a to j
        coded with lowercase letters a to j
        in letters, a for zero
        with small letters in place of digits
        translated to lowercase letters
        mapped to a, b, c and so on
        using lowercase letters instead of digits
        as lowercase code letters
        """,
        "spelled in lowercase letters a through j",
    ),
    "capitals": say(
        """
        as capital letters from A to J
        coded with uppercase letters A to J
        in capitals, A for zero
        with big letters in place of digits
        translated to uppercase letters
        mapped to capital A, B, C and so on
        using uppercase letters instead of digits
        as uppercase code letters
        """,
        "spelled in uppercase capital letters A through J",
    ),
    "lower": say(
        """
        in lowercase
        in lower case letters
        all lowercase
        with small letters throughout
        without any capitals
        entirely in small letters
        keeping every letter lowercase
        in minuscules
        """,
        "using only lowercase",
    ),
    "upper": say(
        """
        in uppercase
        in upper case letters
        all uppercase
        with capital letters throughout
        without any small letters
        entirely in capitals
        making every letter uppercase
        in block capitals
        """,
        "using only uppercase",
    ),
    "capitalized": say(
        """
        with the first letter capitalized
        capitalized
        starting with a capital
        with a capital at the start and the rest small
        in title case
        with just the first letter in uppercase
        like a name, first letter big
        opening with an uppercase letter
        """,
        "with an initial capital",
    ),
    "alternating": say(
        """
        in alternating case
        with every second letter in uppercase
        alternating lower and upper case
        with small and capital letters by turns
        switching case at every letter
        with every other letter capitalized
        one letter small, the next one big
        in zigzag case
        """,
        "with case that alternates letter by letter",
    ),
    "first": say(
        """
        for the first one
        of the first thing
        only for the first
        looking at the first word alone
        for the item at the start
        for the one named first
        of the opening word
        taking item one only
        """,
        "for number one in the list, the first",
    ),
    "middle": say(
        """
        for the middle one
        of the second thing
        only for the middle
        looking at the second word alone
        for the item in the center
        for the one named second
        of the word between the others
        taking item two only
        """,
        "for the one in the middle, the second",
    ),
    "last": say(
        """
        for the last one
        of the third thing
        only for the last
        looking at the third word alone
        for the item at the end
        for the one named last
        of the closing word
        taking item three only
        """,
        "for the final one, the last in the list",
    ),
    "ends": say(
        """
        for the first and the last one
        of both outer things
        for the two at the ends
        looking at the outer two words
        for the items at the start and at the end
        for all but the middle one
        of the opening and the closing word
        taking items one and three
        """,
        "for both ends, first and last",
    ),
}

"""Labels as users write them (names, numbers, numbers in text) become class numbers 0 to K - 1.

Nothing is guessed silently: a class without samples, a gap in the numbers, a fraction or a missing label is refused,
with the rows where it stands.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

from acto.core.errors import UserError, closest
from acto.core.text import counted
from acto.data.label_columns import Column, Labels, is_number, is_whole, whole_number

UNKNOWN = -1
"""A true label that nobody knows."""

_SHOWN = 5
_LARGEST = 2**31
"""True labels are below it, so that a class number of any other set fits."""
_LOOKS_LIKE = str.maketrans(
    "\u0430\u0441\u0435\u0456\u0458\u043e\u0440\u0455\u0445\u0443\u03bf\u03bd\u03b1", "aceijopsxyova"
)
"""Small Cyrillic and Greek letters, and the Latin ones that look the same."""


def infer_classes(column: Column) -> tuple[str, ...]:
    """The class list of the labels that occur: names sorted, numbers in numeric order.

    Raises:
        UserError: negative numbers, a gap in them, or fewer than two classes.
    """
    texts = [text for text in column.texts if text]
    if not all(is_whole(text) for text in texts):
        names = tuple(sorted(texts))
    else:
        if negative := [text for text in texts if int(text) < 0]:
            raise column.refuse(negative, "labels must not be negative")
        numbers = sorted(map(int, texts))
        if len(set(numbers)) < len(numbers):
            same = [text for text in texts if numbers.count(int(text)) > 1]
            raise column.refuse(same, f"labels write one number in several ways: {', '.join(map(repr, same[:_SHOWN]))}")
        missing = (
            sorted(set(range(numbers[0], numbers[-1] + 1)[: len(numbers) + _SHOWN]) - set(numbers)) if texts else []
        )
        if missing or (numbers and numbers[0] > 1):
            first = missing[0] if missing else 0
            raise UserError(
                f"class {first} has no sample, though labels run from {numbers[0]} to {numbers[-1]} "
                f"({column.where(int(column.rows_with(max(texts, key=int))[0]))}); "
                "if that is meant, give the classes by name (classes)"
            )
        names = tuple(sorted(texts, key=int))
    if len(names) < 2:
        raise UserError(f"at least two classes are needed, but the labels have {len(names)}: {', '.join(names)}")
    return names


class ClassCodes:
    """Class numbers of labels, by one rule for given, true and test labels.

    A text is the name of a class. Numbers in text are positions only if no class is called by a number. Labels that
    came as numbers are names or positions, all of them alike: by the reading that fits.

    Args:
        names: the class list.
        given: columns of given and of test labels, each of which must name a class.
        truth: columns of true labels.
        classes: the list that class numbers are to count, if it is another one: of the same names in another order, or
            of new names for all classes.

    Raises:
        UserError: numbers are names as well as positions, and the two differ; or `classes` lacks some of `names`.
    """

    def __init__(
        self,
        names: Sequence[str],
        given: Sequence[Column],
        truth: Sequence[Column] = (),
        *,
        classes: Sequence[str] | None = None,
    ) -> None:
        self._names = tuple(names)
        self._exact = {name: k for k, name in enumerate(names)}
        numbers: dict[int, list[int]] = {}
        for k, name in enumerate(names):
            if (number := whole_number(name)) is not None:
                numbers.setdefault(number, []).append(k)
        self._number_of = {number: found[0] for number, found in numbers.items() if len(found) == 1}
        self._any_number, self._all_numbers = bool(numbers), sum(map(len, numbers.values())) == len(names)
        self._count_themselves = list(names) == [str(k) for k in range(len(names))]
        self._place, self._num_classes = _places(names, classes or names), len(classes or names)
        self._by_position = self._numbers_are_positions(
            [column for column in given if column.are_numbers], [column for column in truth if column.are_numbers]
        )

    def labels(self, column: Column, *, what: str = "label") -> Labels:
        """Class numbers (N,).

        Raises:
            UserError: a label that is no class, or classes that are written in several ways, with the first rows.
        """
        names, by_position = self._names, self._reads_positions(column)
        self._check_one_way(column)
        codes = [self._position(text) if by_position else self._named(text) for text in column.texts]
        unknown = [text for text, code in zip(column.texts, codes, strict=True) if code is None]
        if unknown and by_position:
            raise column.refuse(unknown, f"{what} out of range 0..{len(names) - 1}")
        if unknown:
            shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            problem = f"{what} is none of the {len(names)} classes.{closest(unknown[0], names)} Classes: {shown}"
            raise column.refuse(unknown, problem)
        return self._place[np.array(codes, np.int64)][column.codes]

    def truth(self, column: Column) -> tuple[Labels, int]:
        """Class numbers (N,) of true labels, and how many rows name no class.

        No text and negative numbers that are no class are UNKNOWN; a text that is no class becomes K: none of the
        classes is right. A position beyond the classes stays.

        Raises:
            UserError: a number that no set of classes has, or classes that are written in several ways.
        """
        by_position = self._reads_positions(column)
        self._check_one_way(column)

        def code(text: str) -> int:
            number = int(text) if is_whole(text) else None
            if number is not None and (by_position or self._count_themselves):
                return placed(max(number, UNKNOWN))
            if text and (named := self._named(text)) is not None:
                return placed(named)
            return UNKNOWN if not text or (number is not None and number < 0) else self._num_classes

        def placed(number: int) -> int:
            if number >= len(self._names):
                return max(number, self._num_classes)
            return number if number < 0 else int(self._place[number])

        codes = [code(text) for text in column.texts]
        if huge := [text for text, number in zip(column.texts, codes, strict=True) if number >= _LARGEST]:
            raise column.refuse(huge, f"a true label is not below {_LARGEST}")
        labels = np.array(codes, np.int64)[column.codes]
        return labels, int((labels >= self._num_classes).sum())

    def _named(self, text: str) -> int | None:
        """The class of this name, or the only one whose name writes the same number."""
        if text in self._exact:
            return self._exact[text]
        number = whole_number(text)
        return None if number is None else self._number_of.get(number)

    def _check_one_way(self, column: Column) -> None:
        ways: dict[int, list[str]] = {}
        for text in column.texts:
            if (code := self._named(text)) is not None:
                ways.setdefault(code, []).append(text)
        if several := [texts for texts in ways.values() if len(texts) > 1]:
            raise column.refuse(
                several[0], f"labels write one class in several ways: {', '.join(map(repr, several[0][:_SHOWN]))}"
            )

    def _position(self, text: str) -> int | None:
        return int(text) if 0 <= int(text) < len(self._names) else None

    def _reads_positions(self, column: Column) -> bool:
        if column.are_numbers:
            return self._by_position
        texts = [text for text in column.texts if text]
        return (self._count_themselves or not self._any_number) and bool(texts) and all(map(is_whole, texts))

    def _numbers_are_positions(self, given: Sequence[Column], truth: Sequence[Column]) -> bool:
        """Choose the reading of labels that came as numbers."""
        size = len(self._names)
        must, may = ({int(text) for column in part for text in column.texts if text} for part in (given, truth))
        named = {number: self._named(str(number)) for number in must | may}
        if all(code is None for code in named.values()):
            return True

        known = {number for number in may if number >= 0 or named[number] is not None}
        by_name = by_position = True
        for numbers in (must, known):  # true labels beyond the classes are no fault, so they come second
            fit_names = by_name and all(named[number] is not None for number in numbers)
            fit_positions = by_position and all(0 <= number < size for number in numbers)
            if fit_names or fit_positions:
                by_name, by_position = fit_names, fit_positions
            elif numbers is must:
                return self._count_themselves or not self._all_numbers
        if not (by_name and by_position):
            return by_position
        for column in (*given, *truth):
            for text in filter(None, column.texts):
                number = int(text)
                if named[number] != (position := self._position(text)):
                    raise self._ambiguous(column, text, named[number], position)
        return True

    def _ambiguous(self, column: Column, text: str, *meant: int | None) -> UserError:
        by_name, by_position = ("none" if code is None else repr(self._names[code]) for code in meant)
        problem = (
            f"labels are numbers that may be names or positions of the classes: {text} is the class {by_name} by name, "
            f"{by_position} by position"
        )
        return UserError(
            f"{column.refuse([text], problem)}. If they are names, give them as texts: labels.astype(str); if they are "
            "positions, give the names there: np.array(class_names, str)[labels]"
        )


def encode(column: Column, names: Sequence[str], *, what: str = "label") -> Labels:
    """Class numbers (N,) of labels that come alone, see ClassCodes.

    Raises:
        UserError: a label that is no class, or numbers that may be names or positions.
    """
    return ClassCodes(names, [column]).labels(column, what=what)


def encode_truth(column: Column, names: Sequence[str]) -> tuple[Labels, int]:
    """Class numbers (N,) of true labels that come alone, and how many rows name no class, see ClassCodes.

    Raises:
        UserError: a number that no set of classes has, or numbers that may be names or positions.
    """
    return ClassCodes(names, (), [column]).truth(column)


def of_no_class(number: int, file: str) -> str:
    """Note that so many true labels of a file name no class."""
    verb = "names" if number == 1 else "name"
    return f"{counted(number, 'true label')} of {file} {verb} no class: none of the classes is right there"


def check_every_class_occurs(labels: Labels, names: Sequence[str], *, place: str) -> None:
    """Refuse a class without a training sample.

    Raises:
        UserError: with the classes' names and the place where samples were looked for.
    """
    counts = np.bincount(labels, minlength=len(names))
    if empty := [name for name, count in zip(names, counts.tolist(), strict=True) if count == 0]:
        shown = ", ".join(map(repr, empty[:_SHOWN]))
        raise UserError(f"{place}: {len(empty)} of {len(names)} classes have no training sample: {shown}")


def look_alikes(names: Sequence[str]) -> tuple[str, ...]:
    """A note if classes have names that a reader takes for one: by case, spaces, letters of other scripts, or because
    they write one number.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        visible = "".join(mark for mark in unicodedata.normalize("NFKC", name) if unicodedata.category(mark) != "Cf")
        key = " ".join(visible.casefold().translate(_LOOKS_LIKE).split())
        if is_number(key):
            number = whole_number(key)
            key = str(float(key) if number is None else number)
        groups.setdefault(key, []).append(name)
    alike = [group for group in groups.values() if len(group) > 1]
    if not alike:
        return ()
    shown = "; ".join(", ".join(map(ascii, group[:_SHOWN])) for group in alike[:_SHOWN])
    have = "has" if len(alike) == 1 else "have"
    groups_of = f"{counted(len(alike), 'group')} of classes {have} names that look alike"
    return (f"{groups_of}, and are classes of their own: {shown}",)


def _places(names: Sequence[str], classes: Sequence[str]) -> Labels:
    """Position (K,) in `classes` of each of `names`: by name, or as it is where all names are other ones."""
    number = {name: k for k, name in enumerate(classes)}
    if len(names) == len(classes) and number.keys().isdisjoint(names):
        return np.arange(len(names))
    if lacking := [name for name in names if name not in number]:
        raise UserError(
            f"the data have a class list of their own, and the classes that were asked for lack "
            f"{', '.join(map(repr, lacking[:_SHOWN]))}: name all of them, or give all of them new names"
        )
    return np.array([number[name] for name in names], np.int64)

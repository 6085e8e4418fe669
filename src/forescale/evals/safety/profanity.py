"""Toxicity scores offline: the weights of alt-profanity-check, computed with numpy.

The package keeps a TF-IDF vectorizer and a linear SVM with Platt scaling, trained on 200,000 comments, as two joblib files, which
are pickles. A pickle can run anything, so these are never unpickled as such: `read_joblib` knows the few opcodes that arrays,
dicts and plain values need, puts an object without behaviour where a class is named, and refuses all else.
"""

from __future__ import annotations

import functools
import io
import pickle
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from forescale.core.errors import UserError
from forescale.data.fetch import Archive, PackageFile, fetch

PROFANITY = PackageFile(
    "alt-profanity-check",
    "1.9.1",
    "alt_profanity_check-1.9.1-py3-none-any.whl",
    "cccb8ce072306bac21188670777a25cfb1de978aa8c7a93c8e4a43c03b3945c3",
)
SCORER_NAME = "alt-profanity-check 1.9.1"
LICENCE = "MIT"


class _Object:
    """Stands for an object of a foreign class: its attributes, no behaviour."""


class _Array:
    """What joblib writes before the bytes of an array."""


class _DType:
    """A dtype's arguments and state."""


class _Scalar:
    """The function that makes one number of a dtype and bytes."""


class _Name:
    """A class that is only mentioned."""


_STAND_INS: dict[tuple[str, str], type] = {
    ("sklearn.calibration", "CalibratedClassifierCV"): _Object,
    ("sklearn.calibration", "_CalibratedClassifier"): _Object,
    ("sklearn.calibration", "_SigmoidCalibration"): _Object,
    ("sklearn.svm._classes", "LinearSVC"): _Object,
    ("sklearn.feature_extraction.text", "TfidfVectorizer"): _Object,
    ("sklearn.feature_extraction.text", "TfidfTransformer"): _Object,
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): _Array,
    ("numpy", "dtype"): _DType,
    ("numpy._core.multiarray", "scalar"): _Scalar,
    ("numpy", "ndarray"): _Name,
    ("numpy", "float64"): _Name,
}
# Values, containers, memory and frames; NEWOBJ, REDUCE and BUILD are replaced below.
_OPCODES = (
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "MEMOIZE", "BINGET", "LONG_BINGET", "STACK_GLOBAL"),
)  # fmt: skip
_NUMBERS = frozenset(f"{kind}{size}" for kind in "iuf" for size in (4, 8))


class _Reader(pickle._Unpickler):
    """Builds values, containers, numeric arrays and stand-ins. Raises UnpicklingError for anything else."""

    stack: list[Any]
    read: Callable[[int], bytes]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in _OPCODES
    }

    def find_class(self, module: str, name: str) -> type:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}") from None

    def load_newobj(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if kind not in (_Object, _Array) or arguments != ():
            raise pickle.UnpicklingError("it makes an object that is not a stand-in")
        self.stack.append(kind())

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("it calls something with no arguments")
        if function is _DType and arguments[:1] in {(name,) for name in _NUMBERS}:
            made = _DType()
            made.__dict__["code"] = arguments[0]
            self.stack.append(made)
        elif function is _Scalar and len(arguments) == 2 and isinstance(arguments[0], _DType):
            self.stack.append(np.frombuffer(arguments[1], _numpy_dtype(arguments[0]), 1)[0])
        else:
            raise pickle.UnpicklingError("it calls something other than a dtype of numbers or a number")

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _DType) and isinstance(state, tuple) and state[1:2] in (("<",), (">",), ("|",)):
            target.__dict__["order"] = state[1]
        elif isinstance(target, _Object | _Array) and isinstance(state, dict) and all(type(k) is str for k in state):
            target.__dict__.update(state)
            if isinstance(target, _Array):
                self.stack[-1] = self._array(target.__dict__)
        else:
            raise pickle.UnpicklingError("it sets the state of something that is not a stand-in")

    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build

    def _array(self, facts: dict[str, Any]) -> np.ndarray:
        """The array whose bytes follow: a byte that counts the padding, the padding, the numbers (joblib 1.2 and later)."""
        kind, shape = facts.get("dtype"), facts.get("shape")
        if not isinstance(kind, _DType) or not isinstance(shape, tuple) or not all(type(n) is int for n in shape):
            raise pickle.UnpicklingError("it has an array without a dtype of numbers and a shape")
        dtype = _numpy_dtype(kind)
        count = int(np.prod(shape, dtype=np.int64))
        if "numpy_array_alignment_bytes" in facts:
            self.read(self.read(1)[0])
        data = self.read(count * dtype.itemsize)
        order: Literal["C", "F"] = "F" if facts.get("order") == "F" else "C"
        return np.frombuffer(data, dtype, count).reshape(shape, order=order)


def _numpy_dtype(made: _DType) -> np.dtype[Any]:
    facts = vars(made)
    return np.dtype(facts.get("order", "<").replace("|", "=") + facts["code"])


def read_joblib(data: bytes, name: str) -> Any:
    """The value in an uncompressed joblib file, with `vars(...)` of stand-ins in place of objects.

    Raises UserError if it holds anything but numbers, text, containers, arrays of numbers and the classes of `_STAND_INS`.
    """
    try:
        return _Reader(io.BytesIO(data)).load()
    except Exception as error:  # a damaged pickle can fail in any way
        why = f"opcode {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{name} is not read, since it holds more than arrays and plain values ({why}).") from error


@dataclass(frozen=True, eq=False)
class Profanity:
    """The vectorizer and the classifiers. F: features, K: folds, each a classifier with its calibration.

    `pattern` finds the words of a text in lower case; stop words are no features, so they need no list.
    """

    pattern: re.Pattern[str]
    features: dict[str, int]
    idf_F: np.ndarray
    weights_KF: np.ndarray
    bias_K: np.ndarray
    slope_K: np.ndarray
    offset_K: np.ndarray

    def __call__(self, texts: Sequence[str]) -> list[float | None]:
        """Probability that each text is profane: the mean over folds of 1 / (1 + exp(slope margin + offset)) (Platt 1999), of
        TF-IDF with unit length. Never None."""
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> float:
        found = Counter(self.features[word] for word in self.pattern.findall(text.lower()) if word in self.features)
        where = np.fromiter(found, np.int64, len(found))
        x_N = np.fromiter(found.values(), np.float64, len(found)) * self.idf_F[where]
        x_N /= max(float(np.sqrt(x_N @ x_N)), np.finfo(np.float64).tiny)
        margin_K = self.weights_KF[:, where] @ x_N + self.bias_K
        return float(np.mean(1 / (1 + np.exp(self.slope_K * margin_K + self.offset_K))))


def read_profanity(archive: Archive) -> Profanity:
    """Raises UserError if the files are not the vectorizer and the classifier that this reader is for."""
    folder = "profanity_check/data"
    vectorizer, model = (
        read_joblib(archive.read(f"{folder}/{name}.joblib"), f"{name}.joblib") for name in ("vectorizer", "model")
    )
    try:
        words, folds = vars(vectorizer), vars(model)["calibrated_classifiers_"]
        settings = ("analyzer", "lowercase", "ngram_range", "norm", "sublinear_tf", "strip_accents", "binary")
        if tuple(words[name] for name in settings) != ("word", True, (1, 1), "l2", False, None, False):
            raise UserError("alt-profanity-check counts words in a way that this reader does not know.")
        classifiers = [vars(vars(fold)["estimator"]) for fold in folds]
        scales = [vars(vars(fold)["calibrators"][0]) for fold in folds]
        return Profanity(
            pattern=re.compile(words["token_pattern"]),
            features={word: int(place) for word, place in words["vocabulary_"].items()},
            idf_F=vars(words["_tfidf"])["idf_"],
            weights_KF=np.stack([found["coef_"][0] for found in classifiers]),
            bias_K=np.array([float(found["intercept_"][0]) for found in classifiers]),
            slope_K=np.array([float(found["a_"]) for found in scales]),
            offset_K=np.array([float(found["b_"]) for found in scales]),
        )
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"alt-profanity-check's files lack what this reader expects ({error}).") from error


@functools.cache
def load_profanity() -> Profanity:
    """Raises PackUnavailable if the pack is neither cached nor to be had."""
    return read_profanity(Archive(fetch(PROFANITY, "profanity scorer"), PROFANITY.filename))

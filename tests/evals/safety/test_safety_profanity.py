"""The toxicity scorer: what its reader refuses, a small model by hand, and the real package's own predictions."""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from typing import Any

import numpy as np
import pytest

from forescale.core.errors import UserError
from forescale.data.fetch import Archive, is_cached
from forescale.evals.safety.profanity import PROFANITY, load_profanity, read_joblib, read_profanity

# --- joblib files, byte by byte


def text(value: str) -> bytes:
    data = value.encode()
    return b"\x8c" + bytes([len(data)]) + data


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def plain(value: Any) -> bytes:
    """What pickle makes of a value, without header, frame, memory and stop."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict):
        return b"}(" + b"".join(text(k) + plain(v) for k, v in value.items()) + b"u"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(plain, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(plain, value)) + b"e"
    if isinstance(value, bool) or value is None:
        return {True: b"\x88", False: b"\x89", None: b"N"}[value]
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    return text(value) if isinstance(value, str) else b"J" + struct.pack("<i", value)


def made(module: str, name: str, state: dict[str, Any]) -> bytes:
    return named(module, name) + b")\x81" + plain(state) + b"b"


def dtype(code: str) -> bytes:
    state = plain((3, "<", None, None, None, -1, -1, 0)) + b"b"
    return named("numpy", "dtype") + plain((code, False, True)) + b"R" + state


def array(values: np.ndarray) -> bytes:
    facts = {
        "subclass": named("numpy", "ndarray"),
        "shape": values.shape,
        "order": "C",
        "dtype": dtype(values.dtype.str[1:]),
        "allow_mmap": True,
        "numpy_array_alignment_bytes": 16,
    }
    return made("joblib.numpy_pickle", "NumpyArrayWrapper", facts) + b"\x03\xff\xff\xff" + values.tobytes()


def whole(value: bytes) -> bytes:
    return b"\x80\x05" + value + b"."


def scalar(value: float) -> bytes:
    return named("numpy._core.multiarray", "scalar") + b"(" + dtype("f8") + b"C\x08" + struct.pack("<d", value) + b"tR"


WORDS = ["good", "bad", "day"]
IDF = np.array([1.0, 2.0, 1.5])
WEIGHTS = (np.array([[-1.0, 3.0, 0.25]]), np.array([[-2.0, 1.0, 0.0]]))
BIASES, SCALES = (0.5, -0.5), ((-2.0, 0.25), (-1.0, 0.0))


def small(**settings: Any) -> Archive:
    told = {"analyzer": "word", "lowercase": True, "ngram_range": (1, 1), "norm": "l2", "sublinear_tf": False}
    told |= {"strip_accents": None, "binary": False, "token_pattern": r"(?u)\b\w\w+\b", **settings}
    tfidf = made("sklearn.feature_extraction.text", "TfidfTransformer", {"idf_": array(IDF)})
    told |= {"vocabulary_": {word: i for i, word in enumerate(WORDS)}, "_tfidf": tfidf}
    folds = []
    for weights, bias, (slope, offset) in zip(WEIGHTS, BIASES, SCALES):
        svm = made(
            "sklearn.svm._classes", "LinearSVC", {"coef_": array(weights), "intercept_": array(np.array([bias]))}
        )
        sigmoid = made("sklearn.calibration", "_SigmoidCalibration", {"a_": scalar(slope), "b_": scalar(offset)})
        folds.append(made("sklearn.calibration", "_CalibratedClassifier", {"estimator": svm, "calibrators": [sigmoid]}))
    model = made("sklearn.calibration", "CalibratedClassifierCV", {"calibrated_classifiers_": folds})
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr(
            "profanity_check/data/vectorizer.joblib",
            whole(made("sklearn.feature_extraction.text", "TfidfVectorizer", told)),
        )
        file.writestr("profanity_check/data/model.joblib", whole(model))
    return Archive(data.getvalue(), "small.whl")


def test_a_small_model_by_hand() -> None:
    scorer = read_profanity(small())
    found = scorer(["Bad, BAD day! x unknown", ""])
    # Two times "bad" and once "day": (0, 4, 1.5) of length sqrt(18.25).
    length = math.sqrt(18.25)
    margins = ((3 * 4 + 0.25 * 1.5) / length + 0.5, (1 * 4 + 0) / length - 0.5)
    expected = [1 / (1 + math.exp(a * f + b)) for f, (a, b) in zip(margins, SCALES)]
    assert found[0] == pytest.approx(sum(expected) / 2, abs=1e-12)
    # No known word: the biases alone.
    expected = [1 / (1 + math.exp(a * f + b)) for f, (a, b) in zip(BIASES, SCALES)]
    assert found[1] == pytest.approx(sum(expected) / 2, abs=1e-12)


def test_another_way_of_counting_words_is_refused() -> None:
    with pytest.raises(UserError, match="counts words in a way"):
        read_profanity(small(sublinear_tf=True))


class Evil:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.pair = (function, arguments)

    def __reduce__(self) -> Any:
        return self.pair


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_run(protocol: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    mark = tmp_path_factory.mktemp("marks") / f"{protocol}"
    hostile = pickle.dumps({"weights": Evil(exec, f"open({str(mark)!r}, 'w')")}, protocol)
    with pytest.raises(UserError, match="is not read"):
        read_joblib(hostile, "hostile.joblib")
    assert not mark.exists()
    pickle.loads(hostile)
    assert mark.exists()  # or this test could not fail


STAND_IN = named("sklearn.svm._classes", "LinearSVC")


@pytest.mark.parametrize(
    "data",
    [
        whole(named("os", "system") + plain(("true",)) + b"R"),
        whole(named("builtins", "eval")),
        whole(named("numpy", "load")),
        b"cos\nsystem\n.",  # GLOBAL
        b"(S'true'\nios\nsystem\n.",  # INST
        whole(STAND_IN + plain(()) + b"R"),  # a stand-in is not called
        whole(named("numpy", "dtype") + plain(("O8", False, True)) + b"R"),  # objects in an array
        whole(named("numpy", "dtype") + plain(([["f8"]],)) + b"R"),
        whole(STAND_IN + b"}b"),  # the state of a class itself
        whole(STAND_IN + b")\x81" + plain((None, {"x": 1})) + b"b"),  # slots
        whole(plain([]) + plain({"x": 1}) + b"b"),
        whole(named("numpy", "ndarray") + b")\x81"),
        whole(made("joblib.numpy_pickle", "NumpyArrayWrapper", {"shape": (2,), "dtype": "f8"})),
        whole(array(np.zeros(3))[:-9]),  # fewer bytes than the shape says
        whole(b"\x8a\x01\x05\x82\x01"),  # EXT1
        whole(text("x") + b"Q"),  # BINPERSID
        b"",
        b"\x80\x05",
    ],
    ids=range(18),
)
def test_everything_else_is_refused(data: bytes) -> None:
    with pytest.raises(UserError, match=r"hostile\.joblib is not read"):
        read_joblib(data, "hostile.joblib")


def test_arrays_keep_shape_order_and_values() -> None:
    values = np.arange(6, dtype=np.int64).reshape(2, 3)
    found = read_joblib(whole(array(values)), "x")
    np.testing.assert_array_equal(found, values)
    assert found.dtype == np.int64


OWN = {
    "": 0.036375752,
    "you are a stupid idiot": 0.999999993,
    "Have a lovely day.": 0.04506908,
    "the and of": 0.036375752,
    "kill him, he said": 0.843361626,
    "What the hell, hell, hell": 0.991386136,
    "ÉCOLE Straße": 0.036375752,
}


def test_the_package_gives_the_same() -> None:
    """Its own `predict_prob`, version 1.9.1 with scikit-learn 1.9.1."""
    if not is_cached(PROFANITY):
        pytest.skip(f"{PROFANITY.filename} is not in the cache")
    np.testing.assert_allclose(np.array(load_profanity()(list(OWN)), float), list(OWN.values()), atol=1e-6)

import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import steer3d

EXPERIMENT = """
[data]
dataset = "{data}"

[model]
kind = "steerable"
blocks = [{{ fields = "2x0+1x1", size = 3, stride = 2 }}, {{ fields = "4x0", size = 3 }}]
kernel = {{ family = "gaussian_jets", order = 2 }}

[training]
epochs = {epochs}
batch_size = 4
"""


@pytest.fixture(scope="session")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    path = folder / "exp.toml"
    path.write_text(EXPERIMENT.format(data=data.path, epochs=2))
    told = []
    trained = steer3d.train(path, folder / "out", changes={"training.epochs": 3}, progress=lambda *now: told.append(now))
    assert told
    return trained


def test_training(run):
    assert len(run.epochs) == 3
    assert run.load().parameters == run.parameters


@pytest.fixture(scope="session")
def map_file(tmp_path_factory):
    """A map of 24 x 20 x 22 voxels of 2 x 2 x 3 angstrom."""
    path = tmp_path_factory.mktemp("maps") / "map.mrc"
    steer3d.Volume(np.random.default_rng(0).random((24, 20, 22)), voxel_size=(2.0, 2.0, 3.0)).write(path)
    return path


OPTIONS = [{"native_voxels": True}, {"window": 12}, {"window": (12, 8, 8), "overlap": 0.25}, {}]


@pytest.mark.parametrize("options", OPTIONS)
def test_labels_of_voxels_are_those_of_the_program(options, map_file):
    model = steer3d.load("secondary-structure")
    found = model.predict(map_file, progress=False, **options)
    assert found == [steer3d.program("predict", model.name, map_file, **options)]
    plain = model.predict(map_file, progress=False)
    assert (found == plain) == (not options)


def test_model(run, data):
    model = run.load()
    volumes = data.read([0, 1, 2])
    logits = model(volumes)
    assert logits.shape == (3, 2)
    assert model.features(volumes).shape == (3, 4)
    assert np.allclose(model.predict(volumes).sum(1), 1)
    records = model.predict(data.path, progress=False)
    assert len(records) == 12
    assert records[0]["answer"]["classes"]["class"] in data.class_names
    assert np.allclose(model.features(data.path)[:3], model.features(volumes), atol=1e-5)


def test_a_callable_is_measured_as_its_file_is(run, data, protocol):
    model = run.load()
    a = steer3d.evaluate(run.model, data, protocol, progress=False)
    b = steer3d.evaluate(lambda x: model(x), data, protocol, progress=False)
    c = steer3d.evaluate(model, data, protocol, progress=False)
    numbers = lambda report: report.results["value"]
    assert numbers(a) == numbers(b) == numbers(c)
    assert a.predictions["answer"] == b.predictions["answer"]


def test_a_model_of_the_package_is_compared_with_the_dataset(protocol, tmp_path):
    names = steer3d.load("adrenal").class_names
    volumes, labels = np.random.default_rng(0).random((20, 9, 9, 9)), np.arange(20) % 2

    def data(name, class_names, labels, **options):
        options = {"unit": "voxel", "class_names": class_names, **options}
        return steer3d.write_dataset(tmp_path / f"{name}.h5", volumes, labels, **options)

    same, other = data("same", names, labels), data("other", names[::-1], 1 - labels)
    with pytest.raises(steer3d.Steer3dError, match="adrenal: the classes differ.*--map-classes"):
        steer3d.evaluate("adrenal", other, protocol)
    for metric in ("accuracy", "auc"):
        plain, mapped = (
            steer3d.evaluate("adrenal", data, protocol, map_classes=True, progress=False).value(metric)
            for data in (same, other)
        )
        assert plain == mapped, metric
    with pytest.raises(steer3d.Steer3dError, match=r"adrenal: .*trained on voxels of.*\[2\.0, 2\.0, 2\.0\]"):
        steer3d.evaluate("adrenal", data("coarse", names, labels, voxel_size=2), protocol)
    with pytest.raises(steer3d.Steer3dError, match="the classes differ"):
        steer3d.evaluate("adrenal", data("others", ["cat", "dog"], labels), protocol, map_classes=True)


def test_a_callable_has_the_classes_that_it_is_given(protocol, tmp_path):
    volumes = np.random.default_rng(0).random((8, 9, 9, 9))
    data = steer3d.write_dataset(tmp_path / "unlabelled.h5", volumes)
    zeros = lambda x: np.zeros((len(x), 2), np.float32)
    report = steer3d.evaluate(zeros, data, protocol, split="test", class_names=["a", "b"], progress=False)
    assert report.value("consistency", "cube") == 1
    with pytest.raises(steer3d.Steer3dError, match="class-names"):
        steer3d.evaluate(zeros, data, protocol)


def test_pickles_open_the_file_again(data):
    assert np.array_equal(pickle.loads(pickle.dumps(data)).read([1]), data.read([1]))
    model = pickle.loads(pickle.dumps(steer3d.load("adrenal")))
    assert model.card == steer3d.load("adrenal").card


def test_models_are_called_as_they_are_named(run, data, protocol):
    named = {"file": run.model, "model": run.load(), 3: lambda x: np.zeros((len(x), 2), np.float32)}
    report = steer3d.evaluate(named, data, protocol, progress=False)
    assert list(dict.fromkeys(report.results["model"])) == ["file", "model", "3"]
    one = steer3d.evaluate(run.load(), data, protocol, name="mine", progress=False)
    assert set(one.results["model"]) == {"mine"}
    assert one.value("consistency", "cube") == report.value("consistency", "cube", model="file")
    volumes, names = np.random.default_rng(0).random((20, 9, 9, 9)), steer3d.load("adrenal").class_names
    path = os.path.join(os.path.dirname(data.path), "named.h5")
    other = steer3d.write_dataset(path, volumes, np.arange(20) % 2, unit="voxel", class_names=names)
    package = steer3d.evaluate({"gland": "adrenal"}, other, protocol, progress=False)
    assert set(package.results["model"]) == {"gland"}


def test_tables_for_pandas(run, data, protocol):
    pandas = pytest.importorskip("pandas")
    report = steer3d.evaluate(run.model, data, protocol, progress=False)
    results, predictions = pandas.DataFrame(report.results), pandas.DataFrame(report.predictions)
    for name in ("parameter", "value", "low", "high"):
        assert results[name].astype(float).dtype == float
    assert results["value"].dtype == float
    assert list(predictions["item"]) == report.predictions["item"]
    assert set(predictions["item"]) <= set(data.ids)


@pytest.mark.parametrize("answers", ["voxels", "values"])
def test_callables_that_answer_otherwise(answers, protocol, tmp_path):
    rng = np.random.default_rng(0)
    volumes = rng.random((12, 9, 9, 9), np.float32)
    labels, vectors = (volumes > 0.5).astype(np.uint8), rng.normal(size=(12, 3))
    given = {"voxel_labels": labels} if answers == "voxels" else {"targets": vectors, "target_irreps": "1x1"}
    data = steer3d.write_dataset(tmp_path / "data.h5", volumes, progress=False, **given)
    seen = []

    def model(x):
        seen.append(x.shape)
        if answers == "voxels":
            return np.concatenate([0.5 - x, x - 0.5], 1)
        return np.zeros((len(x), 3), np.float32)

    report = steer3d.evaluate(model, data, protocol, answers=answers, progress=False)
    assert seen and set(report.results["model"]) == {"model"}
    assert all(np.isfinite(report.predictions["score"]))
    with pytest.raises(steer3d.Steer3dError, match="7"):
        steer3d.evaluate(lambda x: np.zeros((len(x), 7), np.float32), data, protocol, answers=answers)


def test_report(run, data, protocol, tmp_path):
    models = {"one": run.load(), "none": lambda x: np.zeros((len(x), 2), np.float32)}
    report = steer3d.evaluate(models, data, protocol, rotations=3)
    assert report.data["sections"][0]["protocol"]["rotations"] == 3
    assert report.value("consistency", "cube", model="none") == 1
    assert steer3d.evaluate([run.model, run.load()], data, protocol).data
    assert "<pre>" in report._repr_html_()
    report.save(tmp_path / "report")
    assert (tmp_path / "report/report.html").is_file()
    assert steer3d.Report.read(tmp_path / "report").results == report.results


def test_a_callable_that_raises_shows_its_traceback(data, protocol):
    def broken(x):
        raise ZeroDivisionError("this one")

    with pytest.raises(ZeroDivisionError, match="this one") as raised:
        steer3d.evaluate(broken, data, protocol)
    assert "broken" in [entry.name for entry in raised.traceback]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda x: np.zeros((len(x), 5), np.float32), ValueError),
        (lambda x: np.full((len(x), 2), np.nan, np.float32), ValueError),
        (lambda x: "logits", TypeError),
        (lambda x: None, TypeError),
    ],
)
def test_wrong_answers(data, protocol, answer, kind):
    with pytest.raises(kind):
        steer3d.evaluate(answer, data, protocol)


def test_wrong_protocols(run, data):
    with pytest.raises(steer3d.Steer3dError, match="rotation"):
        steer3d.evaluate(run.model, data, rotation=3)
    with pytest.raises(steer3d.Steer3dError, match="channels"):
        steer3d.evaluate("adrenal", steer3d_two_channels(data))
    with pytest.raises(steer3d.Steer3dError):
        steer3d.evaluate(run.model, data, split="tests")


def steer3d_two_channels(data):
    path = data.path.replace("bands.h5", "two.h5")
    if not os.path.exists(path):
        volumes = np.concatenate([data.read(range(12))] * 2, axis=1)
        steer3d.write_dataset(path, volumes, data.labels, class_names=data.class_names)
    return path


def test_ctrl_c_stops_an_evaluation(run, data):
    code = f"""
import signal, steer3d
signal.signal(signal.SIGINT, signal.default_int_handler)
def told(*now):
    print(flush=True)
steer3d.evaluate({run.model!r}, {data.path!r}, rotations=100000, batch=8, progress=told)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - start < 10
    assert "KeyboardInterrupt" in errors


def test_exit_code_of_an_interrupted_program(run, data):
    command = [sys.executable, "-m", "steer3d", "eval", run.model, data.path, "--rotations", "100000"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130

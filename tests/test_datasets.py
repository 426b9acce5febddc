"""Bundled MNIST, IDX files, downloads (from a server on this machine) and the user's own tables."""

import csv
import gzip
import hashlib
import io
import struct
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmnist import datasets
from fastmnist.datasets import (
    DatasetError,
    Remote,
    csv_files,
    fetch_emnist,
    fetch_fashion_mnist,
    load_mnist,
    load_table,
    mnist,
    read_idx,
    tables,
)

# The published SHA-256 of MNIST's four uncompressed files.
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
IDX_CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}


def to_idx(array):
    header = bytes((0, 0, IDX_CODES[array.dtype.name], array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def small_mnist(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), rng.integers(0, 10, n).astype(np.uint8)


def mnist_files(n_train=20, n_test=10):
    files = {}
    for prefix, n in (("train", n_train), ("t10k", n_test)):
        images, labels = small_mnist(n)
        files[f"{prefix}-images-idx3-ubyte.gz"] = gzip.compress(to_idx(images), mtime=0)
        files[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(to_idx(labels), mtime=0)
    return files


# --- the bundled MNIST ------------------------------------------------------------------------------------------------


def test_bundled_files_are_the_published_ones():
    for name, digest in MNIST_SHA256.items():
        content = gzip.decompress((mnist._BUNDLED / f"{name}.gz").read_bytes())
        assert hashlib.sha256(content).hexdigest() == digest


def test_load_mnist():
    X, y = load_mnist("all", return_X_y=True)
    assert X.shape == (70000, 784) and X.dtype == np.uint8 and X.flags.c_contiguous
    assert y.shape == (70000,) and y.dtype == np.int64
    np.testing.assert_array_equal(np.bincount(y[:60000]), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
    np.testing.assert_array_equal(y[60000:60008], [7, 2, 1, 0, 4, 1, 4, 9])
    test = load_mnist("test")
    assert test.name == "mnist (test)" and "CC BY-SA 3.0" in test.description
    np.testing.assert_array_equal(test.data, X[60000:])
    np.testing.assert_array_equal(test.target, y[60000:])
    assert load_mnist(return_X_y=True)[0].shape == (60000, 784)


def test_load_mnist_errors(tmp_path, monkeypatch):
    with pytest.raises(DatasetError, match=r"split must be one of .*'train', 'test', 'all'.*got 'valid'"):
        load_mnist("valid")
    monkeypatch.setattr(mnist, "_BUNDLED", tmp_path)
    with pytest.raises(DatasetError, match=r"SHA256SUMS: can't be read.*--force-reinstall"):
        load_mnist("test")
    (tmp_path / "SHA256SUMS").write_text("".join(f"{'0' * 64}  {name}\n" for name in mnist_files()))
    for name, content in mnist_files().items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=r"t10k-images.*SHA-256.*--force-reinstall"):
        load_mnist("test")


def test_import_is_light():
    code = (
        "import sys, fastmnist.datasets\n"
        "print([m for m in ('pandas', 'scipy', 'pooch', 'requests', 'sklearn', 'numba') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# --- IDX --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("dtype", IDX_CODES)
@pytest.mark.parametrize("shape", [(), (5,), (0,), (3, 4), (2, 0, 3), (2, 3, 4), (2, 1, 3, 1, 2)])
def test_read_idx_round_trip(tmp_path, dtype, shape, zipped):
    array = np.asarray(np.random.default_rng(0).random(shape) * 200 - 100 * (dtype != "uint8")).astype(dtype)
    path = tmp_path / "no-telling-name"
    path.write_bytes(gzip.compress(to_idx(array)) if zipped else to_idx(array))
    got = read_idx(path)
    assert got.dtype == np.dtype(dtype) and got.dtype.isnative and got.shape == shape
    np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("zipped", [False, True])
def test_read_idx_from_open_files(tmp_path, zipped):
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    content = gzip.compress(to_idx(array)) if zipped else to_idx(array)
    memory = io.BytesIO(content)
    np.testing.assert_array_equal(read_idx(memory), array)
    assert not memory.closed
    path = tmp_path / "x"
    path.write_bytes(content)
    for buffering in (0, -1):
        with open(path, "rb", buffering=buffering) as file:
            np.testing.assert_array_equal(read_idx(file), array)
            assert not file.closed
    with (
        open(path, errors="replace") as text,
        pytest.raises(TypeError, match="opened in binary mode; got TextIOWrapper"),
    ):
        read_idx(text)
    with pytest.raises(TypeError, match="got int"):
        read_idx(3)


GOOD = to_idx(np.arange(60, dtype=np.uint8).reshape(3, 4, 5))
BAD_IDX = {
    "empty": (b"", "must begin with 00 00.*an empty file"),
    "short magic": (b"\0\0\x08", "must begin with 00 00"),
    "wrong magic": (b"\1" + GOOD[1:], "not an IDX file.*01 00 08 03"),
    "unknown type": (b"\0\0\x0a" + GOOD[3:], "not an IDX file.*00 00 0a 03"),
    "text": (b"label,p0\n1,2\n", "not an IDX file"),
    "cut header": (GOOD[:9], "truncated.*rank 3 has 16 bytes; got 9"),
    "cut data": (GOOD[:-1], r"truncated.*\(3, 4, 5\) of uint8 needs 60 bytes of data; got 59"),
    "no data": (GOOD[:16], "needs 60 bytes of data; got 0"),
    "one too many": (GOOD + b"\0", "too long.*exactly 60 bytes"),
    "terabytes": (b"\0\0\x08\2" + b"\0\xff\xff\xff" * 2 + b"x" * 99, "truncated.*281474943156225 bytes.*got 99"),
    "no such array": (b"\0\0\x0e\4" + b"\xff" * 16, "no array can have the shape"),
    "no such array, empty": (b"\0\0\x0e\4" + b"\xff" * 12 + b"\0\0\0\0", "no array can have the shape"),
    "rank": (b"\0\0\x08\xff" + b"\0\0\0\1" * 255 + b"x", "rank must be at most 64; the header says 255"),
}  # fmt: skip


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("case", BAD_IDX)
def test_read_idx_refuses(tmp_path, case, zipped):
    content, message = BAD_IDX[case]
    path = tmp_path / "bad.idx"
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(DatasetError, match=f"bad.idx.*{message}"):
        read_idx(path)


def test_read_idx_refuses_damaged_gzip(tmp_path):
    path = tmp_path / "bad.gz"
    zipped = gzip.compress(GOOD)
    for content in (zipped[:-9], zipped[:12], zipped + b"garbage", zipped[:-5] + b"\0" + zipped[-4:], b"\x1f\x8b"):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"bad\.gz: damaged or truncated.*fresh copy"):
            read_idx(path)


def test_read_idx_unreadable(tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere: can't be read: No such file.*Check the path"):
        read_idx(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="can't be read: Is a directory"):
        read_idx(tmp_path)


def peak_of(content):
    """Most bytes allocated while `content` is refused."""
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError):
            read_idx(io.BytesIO(content))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_read_idx_allocates_what_is_there_not_what_is_claimed():
    claims_terabytes = b"\0\0\x08\2" + b"\xff\xff\xff\xff" * 2
    assert peak_of(claims_terabytes + b"x" * 1000) < 4 << 20
    assert peak_of(gzip.compress(claims_terabytes + b"x" * 1000)) < 4 << 20
    bomb = gzip.compress(b"\0\0\x08\1\0\0\0\x10" + bytes(64 << 20), compresslevel=1)  # 16 claimed
    assert peak_of(bomb) < 4 << 20


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=64), st.binary(max_size=64).map(lambda tail: b"\0\0\x08" + tail)), st.booleans())
def test_read_idx_survives_any_bytes(content, zipped):
    check_survival(gzip.compress(content) if zipped else content)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_read_idx_survives_mutations(data):
    content = bytearray(data.draw(st.sampled_from([GOOD, gzip.compress(GOOD), to_idx(np.ones((2, 3)))])))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 40) - 1))] = data.draw(st.integers(0, 255))
    check_survival(bytes(content[: data.draw(st.integers(0, len(content)))]))


def check_survival(content):
    tracemalloc.start()
    try:
        array = read_idx(io.BytesIO(content))
        assert array.nbytes <= 1 << 12
    except DatasetError as error:
        assert len(str(error)) > 20
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 << 20


# --- downloads --------------------------------------------------------------------------------------------------------


class Server:
    """Serves `files` (name -> bytes), of those named in `cut` only half of the bytes announced; counts requests."""

    def __init__(self):
        self.files, self.cut, self.requests = {}, set(), []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.rsplit("/", 1)[-1]
                outer.requests.append(name)
                content = outer.files.get(name)
                if content is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if name in outer.cut else content)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/some/folder"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch, tmp_path):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FASTMNIST_DATA", str(tmp_path / "cache"))
    server = Server()
    yield server
    server.close()


def publish(server, monkeypatch, name, files):
    """Put `files` on the server and their checksums where the real ones are."""
    server.files = dict(files)
    sums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    monkeypatch.setitem(datasets.REMOTES, name, Remote(server.url, sums, "made in a test"))


def cached(tmp_path):
    folder = tmp_path / "cache"
    return sorted(path.name for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


@pytest.mark.parametrize("name", ["fashion_mnist", "kmnist"])
def test_fetch_downloads_once(server, monkeypatch, tmp_path, name):
    fetch = getattr(datasets, f"fetch_{name}")
    publish(server, monkeypatch, name, mnist_files())
    X, y = fetch(return_X_y=True)
    images, labels = small_mnist(20)
    np.testing.assert_array_equal(X, images.reshape(20, 784))
    np.testing.assert_array_equal(y, labels)
    assert y.dtype == np.int64 and len(server.requests) == 2
    whole = fetch("all")
    assert whole.data.shape == (30, 784) and whole.name == f"{name} (all)" and len(server.requests) == 4
    server.files = {}
    assert fetch("test").data.shape == (10, 784) and len(server.requests) == 4
    assert cached(tmp_path) == sorted(mnist_files())


def test_fetch_from_a_mirror_to_a_folder(server, monkeypatch, tmp_path):
    publish(server, monkeypatch, "fashion_mnist", mnist_files())
    sums = datasets.REMOTES["fashion_mnist"].sha256
    monkeypatch.setitem(datasets.REMOTES, "fashion_mnist", Remote("http://127.0.0.1:9/", sums, ""))
    fetch_fashion_mnist("test", base_url=server.url + "/", cache_dir=tmp_path / "here")
    assert (tmp_path / "here" / "fashion_mnist" / "t10k-images-idx3-ubyte.gz").exists() and cached(tmp_path) == []


def test_fetch_emnist_comes_upright(server, monkeypatch):
    images, labels = small_mnist(6)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for part in ("train", "test"):
            file.writestr(
                f"gzip/emnist-letters-{part}-images-idx3-ubyte.gz", gzip.compress(to_idx(images.transpose(0, 2, 1)))
            )
            file.writestr(f"gzip/emnist-letters-{part}-labels-idx1-ubyte.gz", gzip.compress(to_idx(labels), mtime=0))
    publish(server, monkeypatch, "emnist", {"gzip.zip": archive.getvalue()})
    letters = fetch_emnist("letters", "all")
    np.testing.assert_array_equal(letters.data, np.concatenate([images, images]).reshape(12, 784))
    np.testing.assert_array_equal(letters.target, np.concatenate([labels, labels]))
    assert letters.data.flags.c_contiguous
    with pytest.raises(DatasetError, match=r"gzip\.zip: not EMNIST's archive.*emnist-digits-train"):
        fetch_emnist("digits")
    with pytest.raises(DatasetError, match=r"split must be one of \('balanced'.*got 'train'"):
        fetch_emnist("train")
    with pytest.raises(DatasetError, match=r"part must be one of \('train'.*got 'digits'"):
        fetch_emnist("balanced", "digits")


def test_fetch_refuses_a_wrong_hash(server, monkeypatch, tmp_path):
    publish(server, monkeypatch, "fashion_mnist", mnist_files())
    server.files["t10k-images-idx3-ubyte.gz"] = gzip.compress(to_idx(np.zeros((10, 28, 28), np.uint8)))
    with pytest.raises(
        DatasetError, match=r"t10k-images.*not the published file \(its SHA-256 is not .*discarded.*base_url="
    ):
        fetch_fashion_mnist("test")
    assert cached(tmp_path) == []


def test_fetch_replaces_a_damaged_cached_file(server, monkeypatch, tmp_path):
    publish(server, monkeypatch, "fashion_mnist", mnist_files())
    damaged = tmp_path / "cache" / "fashion_mnist" / "t10k-images-idx3-ubyte.gz"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"damaged")
    assert fetch_fashion_mnist("test").data.shape == (10, 784)
    assert damaged.read_bytes() == mnist_files()[damaged.name]


def test_fetch_refuses_a_truncated_download(server, monkeypatch, tmp_path):
    publish(server, monkeypatch, "fashion_mnist", mnist_files())
    server.cut = {"t10k-images-idx3-ubyte.gz"}
    with pytest.raises(DatasetError, match=r"t10k-images.*(broke off|not the published file).*[Tt]ry again"):
        fetch_fashion_mnist("test")
    assert cached(tmp_path) == []


def test_fetch_not_found(server, monkeypatch, tmp_path):
    publish(server, monkeypatch, "fashion_mnist", mnist_files())
    server.files.clear()
    with pytest.raises(DatasetError, match=r"the server refused: 404.*base_url="):
        fetch_fashion_mnist("test")
    assert cached(tmp_path) == []


def test_fetch_offline(server, monkeypatch, tmp_path):
    publish(server, monkeypatch, "fashion_mnist", mnist_files())
    url = server.url
    server.close()
    with pytest.raises(DatasetError, match=r"could not be reached.*Check the connection.*fashion_mnist"):
        fetch_fashion_mnist("test", base_url=url)
    assert cached(tmp_path) == []


def test_fetch_bad_arguments(server, monkeypatch, tmp_path):
    publish(server, monkeypatch, "fashion_mnist", mnist_files())
    with pytest.raises(DatasetError, match=r"base_url must begin with http://.*got 'ftp://x'"):
        fetch_fashion_mnist(base_url="ftp://x")
    with pytest.raises(DatasetError, match=r"fetch_fashion_mnist: split must be one of.*got 'validation'"):
        fetch_fashion_mnist("validation")
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"can't be stored.*FASTMNIST_DATA"):
        fetch_fashion_mnist(cache_dir=tmp_path / "file")
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r"pip install fastmnist\[datasets\]"):
        fetch_fashion_mnist()


def test_published_checksums_are_whole():
    for remote in datasets.REMOTES.values():
        assert remote.sha256 and all(len(bytes.fromhex(digest)) == 32 for digest in remote.sha256.values())


# --- tables -----------------------------------------------------------------------------------------------------------


def write_csv(path, header, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.mark.parametrize(
    "names", [("x_train", "y_train", "x_test", "y_test"), ("X_train", "Y_train", "X_test", "Y_test")]
)
def test_table_npz_with_its_own_parts(tmp_path, names):
    (X, y), (X_test, y_test) = small_mnist(20), small_mnist(10, seed=1)
    path = tmp_path / "mnist.npz"
    np.savez(path, **dict(zip(names, (X, y, X_test, y_test), strict=True)))
    got = load_table(path, test_size=0.5)
    np.testing.assert_array_equal(got.X_train, X.reshape(20, 784))
    np.testing.assert_array_equal(got.X_test, X_test.reshape(10, 784))
    np.testing.assert_array_equal(got.y_train, y)
    np.testing.assert_array_equal(got.y_test, y_test)
    assert got.X_train.dtype == np.uint8 and got.y_train.dtype == np.int64
    assert "20 rows to train on, 10 to test on, as the data are divided" in got.source


@pytest.mark.parametrize("names", [("X", "y"), ("data", "target"), ("images", "labels"), ("x_train", "y_train")])
def test_table_npz_is_split(tmp_path, names):
    X, y = small_mnist(50)
    path = tmp_path / "t.npz"
    np.savez_compressed(path, **dict(zip(names, (X, y[:, None]), strict=True)))
    got = load_table(path, test_size=0.3, seed=1)
    assert got.X_train.shape == (35, 784) and got.X_test.shape == (15, 784)
    rows = {row.tobytes(): label for row, label in zip(X.reshape(50, 784), y, strict=True)}
    for part, labels in ((got.X_train, got.y_train), (got.X_test, got.y_test)):
        assert [rows.pop(row.tobytes()) for row in part] == labels.tolist()  # each row once, with its label
    assert rows == {}
    assert "test_size=0.3 and seed=1" in got.source
    np.testing.assert_array_equal(load_table(path, test_size=0.3, seed=1).X_test, got.X_test)
    assert not np.array_equal(load_table(path, test_size=0.3, seed=2).X_test, got.X_test)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("with_test", [False, True])
@pytest.mark.parametrize("dot", [False, True])
def test_table_idx_folder(tmp_path, zipped, with_test, dot):
    for name, content in mnist_files().items():
        if with_test or name.startswith("train"):
            name = name.replace("-idx", ".idx") if dot else name
            (tmp_path / (name if zipped else name[:-3])).write_bytes(content if zipped else gzip.decompress(content))
    got = load_table(tmp_path)
    images, labels = small_mnist(20)
    if with_test:
        np.testing.assert_array_equal(got.X_train, images.reshape(20, 784))
        np.testing.assert_array_equal(got.y_train, labels)
    assert (len(got.X_train), len(got.X_test)) == ((20, 10) if with_test else (16, 4))


def test_table_csv(tmp_path):
    X, y = small_mnist(40)
    X = X.reshape(40, 784)[:, :30]
    header = [*(f"p{i}" for i in range(30)), "digit"]
    path = write_csv(tmp_path / "t.csv", header, np.column_stack([X, y]).tolist())
    got = load_table(path, label_column="digit", test_size=0.25)
    assert got.X_train.dtype == np.uint8 and got.y_train.dtype == np.int64
    rows = {row.tobytes(): label for row, label in zip(X, y, strict=True)}
    assert [rows[row.tobytes()] for row in got.X_test] == got.y_test.tolist() and len(got.X_test) == 10


def test_table_csv_words_quotes_blank_lines_and_floats(tmp_path):
    path = tmp_path / "t.csv"
    text = '\ufeffa,"the, class",b\r\n1.5,"red, # dark",-2\r\n\r\n"3",blue,1e3\r\n0,blue,0\r\n   \r\n7,"red, # dark",8'
    path.write_text(text, encoding="utf-8", newline="")
    got = load_table(path, label_column="the, class", test_size=0.5)
    X, y = np.concatenate([got.X_train, got.X_test]), np.concatenate([got.y_train, got.y_test])
    order = np.argsort(X[:, 0])
    np.testing.assert_array_equal(X[order], [[0, 0], [1.5, -2], [3, 1000], [7, 8]])
    assert X.dtype == np.float64 and y[order].tolist() == ["blue", "red, # dark", "blue", "red, # dark"]


def test_table_csv_in_many_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_files, "_CSV_ROWS", 3)
    rows = [[i, i % 2, i * 40] for i in range(10)]  # the first chunks fit into uint8, the last do not
    got = load_table(write_csv(tmp_path / "t.csv", ["a", "class", "b"], rows), test_size=0.3)
    X = np.concatenate([got.X_train, got.X_test])
    np.testing.assert_array_equal(X[np.argsort(X[:, 0])], [[i, i * 40] for i in range(10)])
    np.testing.assert_array_equal(got.y_test, got.X_test[:, 0] % 2)


def test_table_mat(tmp_path):
    from scipy.io import savemat

    X, y = small_mnist(30)
    path = tmp_path / "mnist-original.mat"
    savemat(path, {"data": X.reshape(30, 784).T, "label": y[None].astype(np.float64), "other": np.ones(3)})
    got = load_table(path)
    assert got.X_train.shape == (24, 784) and got.X_train.dtype == np.uint8 and got.y_train.dtype == np.int64
    rows = {row.tobytes(): label for row, label in zip(X.reshape(30, 784), y, strict=True)}
    assert [rows[row.tobytes()] for row in got.X_test] == got.y_test.tolist()


def test_integers_become_bytes_only_if_both_parts_fit(tmp_path):
    X, y = np.arange(20).reshape(10, 2), np.arange(10) % 2
    np.savez(tmp_path / "fits.npz", x_train=X, y_train=y, x_test=X, y_test=y)
    np.savez(tmp_path / "not.npz", x_train=X, y_train=y, x_test=X + 250, y_test=y)
    np.savez(tmp_path / "bits.npz", X=X > 3, y=y)
    assert load_table(tmp_path / "fits.npz").X_test.dtype == np.uint8
    got = load_table(tmp_path / "not.npz")
    assert got.X_train.dtype == got.X_test.dtype == np.int64 and got.X_test.max() == 269
    assert load_table(tmp_path / "bits.npz").X_train.dtype == np.float32


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.floats(0.01, 0.99), st.integers(0, 9))
def test_split_keeps_proportions(labels, test_size, seed):
    y = np.array(labels)
    in_test = tables._split_mask(y, test_size, seed)
    n_test = min(int(np.ceil(test_size * len(y))), len(y) - 1)
    assert in_test.sum() == n_test
    share = np.bincount(y) * n_test / len(y)
    assert np.all(np.abs(np.bincount(y[in_test], minlength=len(share)) - share) <= 1 + 1e-9)
    if n_test <= len(y) / 2:
        train = np.bincount(y[~in_test], minlength=len(share))
        assert np.all(train[np.bincount(y) >= 2] >= 1)


def npz_case(**arrays):
    return lambda path: np.savez(path, **arrays)


X3, Y3 = np.ones((3, 2)), np.arange(3)
BAD_NPZ = {
    "names": (npz_case(a=X3, b=Y3), r"must have the arrays x_train and y_train, or x and y.*it has \['a', 'b'\]"),
    "half a pair": (npz_case(X=X3), "'x' and 'y' go together; 'y' is missing"),
    "half a test part": (npz_case(x_train=X3, y_train=Y3, x_test=X3), "'y_test' is missing"),
    "lengths": (npz_case(X=X3, y=Y3[:2]), "as many rows; got 3 and 2"),
    "features differ": (npz_case(x_train=X3, y_train=Y3, x_test=X3[:, :1], y_test=Y3), "got 2 to train on and 1"),
    "label kinds differ": (npz_case(x_train=X3, y_train=Y3, x_test=X3, y_test=np.array(list("abc"))), "of one kind"),
    "objects": (npz_case(X=X3.astype(object), y=Y3), "Python objects, which are never loaded"),
    "words": (npz_case(X=X3.astype(str), y=Y3), "features must be numbers; got dtype <U"),
    "nan": (npz_case(X=np.array([[0, 1], [np.nan, 2]]), y=Y3[:2]), "finite; row 1 .*NaN or infinity"),
    "inf": (npz_case(X=np.array([[0, np.inf], [3, 2]]), y=Y3[:2]), "finite; row 0 .*NaN or infinity"),
    "one-hot": (npz_case(X=X3, y=np.eye(3)), r"shape \(3, 3\). One-hot"),
    "flat": (npz_case(X=Y3, y=Y3), "at least 2 dimensions"),
    "empty": (npz_case(X=np.ones((0, 3)), y=Y3[:0]), "at least one row"),
    "no features": (npz_case(X=np.ones((3, 0)), y=Y3), "at least one row and one feature"),
    "one row": (npz_case(X=X3[:1], y=Y3[:1]), "at least 2 rows"),
    "measured labels": (npz_case(X=X3, y=Y3 + 0.5), "whole numbers or words; got 0.5"),
    "nan label": (npz_case(X=X3, y=np.array([0, 1, np.nan])), "whole numbers or words; got nan"),
    "not a zip": (lambda path: path.write_bytes(b"nonsense" * 9), r"not an .npz archive"),
    "an npy": (lambda path: path.write_bytes(b"\x93NUMPY" + bytes(99)), r"not an .npz archive"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_NPZ)
def test_table_npz_refuses(tmp_path, case):
    write, message = BAD_NPZ[case]
    path = tmp_path / "bad.npz"
    write(path)
    with pytest.raises(DatasetError, match=f"bad.npz.*{message}"):
        load_table(path)


def test_table_npz_damaged(tmp_path):
    path = tmp_path / "bad.npz"
    np.savez_compressed(path, X=np.random.default_rng(0).random((50, 20)), y=np.arange(50))
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"bad\.npz: not a readable \.npz.*np\.savez"):
        load_table(path)


BAD_CSV = {
    "empty file": ("", None, "first line must name the columns"),
    "header only": ("a,label\n", None, "at least one row must follow"),
    "no label column": ("a,b\n1,2\n", None, "name the column of labels.*label, class, target.*Columns: a, b"),
    "semicolons": ("a;label\n1;2\n", None, "separated by ';': save the file with commas"),
    "two label columns": ("label,class\n1,2\n", None, "not exactly one.*Columns: label, class"),
    "unknown label column": ("a,b\n1,2\n", "digit", "'digit' names none. Columns: a, b"),
    "twice": ("a,a\n1,2\n", "a", "'a' names 2"),
    "no header": ("1,2\n3,4\n", None, "first line looks like data"),
    "word": ("a,label\n1,2\n\n \nx,4\n", None, "line 5, column 'a': every feature must be a finite number; got 'x'"),
    "hole": ("a,b,label\n1,1,2\n1,,4\n", None, "line 3, column 'b': .*got ''"),
    "nan": ("a,b,label\n1,1,2\n1,nan,4\n", None, "line 3, column 'b': .*got 'nan'"),
    "inf": ("a,b,label\n1,-inf,2\n1,1,4\n", None, "line 2, column 'b': .*got '-inf'"),
    "short row": ("a,b,label\n1,1,2\n1,2\n", None, "line 3 must have 3 cells, as the header; got 2"),
    "long rows": ("a,label\n1,1,2\n1,2,3\n", None, "line 2 must have 2 cells, as the header; got 3"),
    "no label": ("a,label\n1,2\n1,\n", None, "line 3, column 'label': the label is missing; got ''"),
    "nan label": ("a,label\n1,2\n1,NaN\n", None, "line 3, column 'label': the label is missing; got 'NaN'"),
    "measured": ("a,label\n1,2.5\n1,3\n", None, "whole numbers or words; got 2.5"),
    "no features": ("label\n1\n2\n", None, "at least one row and one feature"),
    "one row": ("a,label\n1,2\n", None, "at least 2 rows"),
    "python's numbers": ("a,label\n1_0,2\n1,3\n", None, "not a table of numbers"),
    "lines in a cell": ('a,label\n1,"x\ny"\n2,z\n', None, "not a table of numbers"),
    "not utf-8": (b"a,label\n\xff,1\n", None, "not text in UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_CSV)
def test_table_csv_refuses(tmp_path, case):
    text, label_column, message = BAD_CSV[case]
    path = tmp_path / "bad.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DatasetError, match=f"bad.csv.*{message}"):
        load_table(path, label_column=label_column)


def test_table_mat_refuses(tmp_path):
    from scipy.io import savemat

    path = tmp_path / "bad.mat"
    path.write_bytes(b"nonsense" * 40)
    with pytest.raises(DatasetError, match=r"bad\.mat: not a readable \.mat file"):
        load_table(path)
    savemat(path, {"data": np.ones((3, 4))})
    with pytest.raises(DatasetError, match="label not found"):
        load_table(path)
    savemat(path, {"data": np.ones((4, 3)), "label": np.ones((1, 4))})
    with pytest.raises(DatasetError, match=r"as in mnist-original; got \(4, 3\) and \(1, 4\)"):
        load_table(path)


def test_table_idx_folder_refuses(tmp_path):
    with pytest.raises(DatasetError, match=r"a folder must hold train-images-idx3-ubyte.*it holds nothing"):
        load_table(tmp_path)
    files = mnist_files()
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(files["train-images-idx3-ubyte.gz"])
    with pytest.raises(DatasetError, match="there is no train-labels"):
        load_table(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(files["train-labels-idx1-ubyte.gz"][:20])
    with pytest.raises(DatasetError, match=r"train-labels-idx1-ubyte\.gz: damaged or truncated"):
        load_table(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(files["t10k-labels-idx1-ubyte.gz"])
    with pytest.raises(DatasetError, match="as many rows; got 20 and 10"):
        load_table(tmp_path)
    (tmp_path / "train-images.idx3-ubyte").write_bytes(b"")
    with pytest.raises(DatasetError, match="claim the same part"):
        load_table(tmp_path)


def test_table_arguments(tmp_path):
    good = tmp_path / "good.npz"
    np.savez(good, X=np.ones((4, 2)), y=np.arange(4) % 2)
    for test_size in (0, 1, -0.5, 2, float("nan"), "0.2", True):
        with pytest.raises(DatasetError, match=r"0 < test_size < 1.*got"):
            load_table(good, test_size=test_size)
    for seed in (-1, 0.5, None):
        with pytest.raises(DatasetError, match="seed must be an integer >= 0; got"):
            load_table(good, seed=seed)
    with pytest.raises(DatasetError, match="label_column is for CSV files only; got 'y'"):
        load_table(good, label_column="y")
    with pytest.raises(DatasetError, match="no such file or folder"):
        load_table(tmp_path / "nowhere.npz")
    other = tmp_path / "table.parquet"
    other.write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match=r"must be \.npz, \.csv, \.mat or a folder of IDX files; got '\.parquet'"):
        load_table(other)

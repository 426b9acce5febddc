"""The report of a profile in a real browser: it renders without a word on the console, on a phone and a desk, light and dark, and its tables sort."""

import os
import re
import shutil
import subprocess

import pytest
from PIL import Image

from fastmnist import MLPClassifier, load_mnist, profile

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("FASTMNIST_REQUIRE_BROWSER"),
        reason="Chromium is missing: apt-get install --yes chromium",
    ),
]

# Runs before the page's own script: what goes wrong becomes an attribute, which the dumped document shows.
WATCH = """<script>
const problems = [];
const note = () => document.documentElement.setAttribute("data-problems", problems.join(" | "));
window.addEventListener("error", event => { problems.push(String(event.message || event.target.src)); note(); }, true);
console.error = console.warn = (...words) => { problems.push(words.join(" ")); note(); };
note();
</script>"""
# Runs after it: clicks on a heading twice and writes down the columns, and how wide the page is.
CLICK = """<script>
const table = document.querySelectorAll("table.sortable")[2], column = COLUMN;
const button = table.tHead.rows[0].cells[column].querySelector("button");
const values = () => [...table.tBodies[0].rows].map(row => row.cells[column].dataset.value).join(" ");
const result = [];
for (const turn of [1, 2]) { button.click(); result.push(values() + ";" + table.tHead.rows[0].cells[column].getAttribute("aria-sort")); }
document.documentElement.setAttribute("data-sorted", result.join("/"));
document.documentElement.setAttribute("data-overflow", document.documentElement.scrollWidth - window.innerWidth);
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    X, y = load_mnist("test", return_X_y=True)
    path = tmp_path_factory.mktemp("report") / "report.html"
    profile(MLPClassifier((16,), batch_size=50, max_iter=1, random_state=0), X[:500], y[:500]).to_html(path)
    return path


def browse(folder, *options):
    assert CHROMIUM is not None, "Chromium is missing: apt-get install --yes chromium"
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={folder}/user",
    ]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=120, check=True).stdout


def instrumented(page, tmp_path, column=1, extra=""):
    text = page.read_text(encoding="utf-8")
    text = text.replace("<head>", f"<head>{WATCH}", 1).replace(
        "</body>", f"{extra}{CLICK.replace('COLUMN', str(column))}</body>"
    )
    path = tmp_path / "watched.html"
    path.write_text(text, encoding="utf-8")
    return path


def attributes(document):
    return dict(re.findall(r'data-(problems|sorted|overflow)="([^"]*)"', document.partition(">")[2].partition(">")[0]))


def test_the_tables_sort_and_nothing_goes_wrong(page, tmp_path):
    document = browse(tmp_path, "--window-size=390,844", "--dump-dom", f"file://{instrumented(page, tmp_path)}")
    found = attributes(document)
    assert found["problems"] == ""
    (down, down_state), (up, up_state) = (turn.split(";") for turn in found["sorted"].split("/"))
    down, up = ([float(value) for value in text.split()] for text in (down, up))
    assert len(down) > 5 and len(set(down)) > 5
    assert (down_state, up_state) == ("descending", "ascending")
    assert down == sorted(down, reverse=True) and up == sorted(up)
    assert int(found["overflow"]) <= 0, "the page itself does not scroll sideways on a phone"


def test_a_mistake_on_the_page_would_be_seen(page, tmp_path):
    path = instrumented(page, tmp_path, extra="<script>undefinedFunction()</script><img src='missing.png'>")
    found = attributes(browse(tmp_path, "--dump-dom", f"file://{path}"))
    assert "undefinedFunction is not defined" in found["problems"]
    assert "missing.png" in found["problems"]


def test_light_and_dark(page, tmp_path):
    backgrounds = {}
    for name, options in {"light": (), "dark": ("--blink-settings=preferredColorScheme=0",)}.items():
        picture = tmp_path / f"{name}.png"
        browse(tmp_path, "--window-size=1200,1600", f"--screenshot={picture}", *options, f"file://{page}")
        with Image.open(picture) as image:
            assert image.size == (1200, 1600)
            grey = image.convert("L")
            backgrounds[name] = grey.getpixel((2, 2))
            assert len(grey.crop((60, 20, 1140, 1500)).getcolors()) > 20, "something is drawn"
    assert backgrounds["light"] > 200 and backgrounds["dark"] < 60

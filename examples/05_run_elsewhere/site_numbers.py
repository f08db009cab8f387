"""A web page's folder → how large it is, when a visitor can use it, and how long a run takes in WebAssembly there."""

import argparse
import json
import statistics
from datetime import UTC, datetime
from pathlib import Path

from aaexport.deployment.manifest import files_in
from aaexport.folder import tool_versions
from aaexport.load.machine import MachineWatch
from aaexport.runners.browser import Browser
from aaexport.runners.loopback import serving
from aaexport.writing import write_json

SCHEMA = "aaexport.site-numbers/1"
READY = "document.documentElement.dataset.ready"
AGAIN = "document.getElementById('again')"
WAIT = "(async () => { while (!(%s)) await new Promise(done => setTimeout(done, 10)); return %s; })()"
SHOWN = "shown ??= {input: golden[0].input.data}, 0"  # where golden images are no pictures none is shown at first
# Bodies, the page's own too, as the server sent them.
LOADED = "['navigation', 'resource'].flatMap(kind => performance.getEntriesByType(kind))"


def main():
    arguments = parsed()
    files = files_in(arguments.site)
    about = json.loads((arguments.site / "site.json").read_text(encoding="utf-8"))
    watch = MachineWatch()
    visits = [visited(files) for _ in range(arguments.visits)]
    machine = watch.environment()
    found = {
        "schema": SCHEMA,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": f"python site_numbers.py {arguments.site} --visits {arguments.visits}",
        "model": about["name"],
        "dtype": about["dtype"],
        "onnx_sha256": about["onnx_sha256"],
        "bytes": sum(path.stat().st_size for path in files.values()),
        "loaded_bytes": visits[0]["loaded_bytes"],
        "ready_seconds": [round(visit["ready"] / 1e3, 3) for visit in visits],
        "p50_ms": [round(statistics.median(visit["runs"]), 3) for visit in visits],
        "runs": [len(visit["runs"]) for visit in visits],
        "browser": visits[0]["browser"],
        "runtime": about["runtime"]["version"],
        "cpu": machine.cpu,
        "cores": machine.cores,
        "steal_share": machine.steal_share,
        "tools": tool_versions(),
    }
    print(json.dumps(found, indent=1))
    if arguments.json is not None:
        write_json(arguments.json, found)


def parsed():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path, help="what `aaexport deploy MODEL --to web --out SITE` wrote")
    parser.add_argument("--visits", type=int, default=5, help="each of a new browser, which knows no file yet")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


def visited(files):
    """Opened as by a visitor who has never been there; then the page's own button runs it 100 times."""
    with serving(files) as url, Browser() as browser:
        browser.open(url)
        ready = float(browser.evaluate(WAIT % (READY, READY)))
        loaded = browser.evaluate(f"{LOADED}.reduce((sum, each) => sum + each.encodedBodySize, 0)")
        browser.evaluate(SHOWN)
        browser.evaluate(f"{AGAIN}.click()")
        runs = browser.evaluate(WAIT % (f"!{AGAIN}.disabled", "runs"))
        product = browser.call("Browser.getVersion")["product"]
    return {"ready": ready, "loaded_bytes": loaded, "runs": runs, "browser": product}


if __name__ == "__main__":
    main()

"""The JSON files of all stages → the table of what is claimed, and one file of everything to keep."""

import argparse
import json
import re
import sys
from pathlib import Path

from plan import OURS, PLAIN, PLANS

from aaexport.errors import AaexportError, DataError
from aaexport.writing import write_json

HERE = Path(__file__).parent
# What a row is told for: name, type of the file, with TF32, with a graph.
COLUMNS = {
    "float32": ("float32", False, False),
    "float32, graph": ("float32", False, True),
    "TF32, graph": ("float32", True, True),
    "float16": ("float16", False, False),
    "float16, graph": ("float16", False, True),
}
FACTS = ("hardware", "driver", "cuda", "device")
NOT_MEASURED = "not measured"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=HERE / "results")
    parser.add_argument("--plan", choices=PLANS, default="full")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write gpu_<hardware>.json there")
    asked = parser.parse_args(arguments)
    try:
        stages = read(asked.results)
        if asked.keep is not None:
            asked.keep.mkdir(parents=True, exist_ok=True)
            write_json(asked.keep / file_name(stages), {"stages": stages})
    except AaexportError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join(lines(stages, PLANS[asked.plan])))
    return 0


def read(folder):
    """Stage → what it wrote. DataError if there is none, or if they are of several machines."""
    stages = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    if not stages:
        raise DataError(f"{folder} must hold the results of run.sh, but has no JSON file")
    if len({tuple(stage.get(fact) for fact in FACTS) for stage in stages.values()}) > 1:
        raise DataError(f"{folder} must hold the results of one machine, got those of several")
    return stages


def file_name(stages):
    hardware = next(iter(stages.values()))["hardware"]
    return f"gpu_{re.sub(r'[^a-z0-9]+', '_', hardware.lower()).strip('_')}.json"


def lines(stages, plan):
    facts = next(iter(stages.values()))
    told = ", ".join(f"{fact} {facts[fact]}" for fact in ("driver", "cuda") if facts[fact])
    yield f"{facts['hardware']}{', ' if told else ''}{told}; " + ", ".join(
        f"{name} {version}" for name, version in facts["versions"].items()
    )
    yield from ("", f"| latency | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}")
    for what, first, second, batch in plan.ratios():
        cells = [ratio(stages, first, second, batch, *column) for column in COLUMNS.values()]
        yield f"| {what} | {' | '.join(cells)} |"
    yield from ("", "| what else | |", "|---|---|")
    for what, figure in others(stages, plan):
        yield f"| {what} | {figure} |"
    failed = [row for stage in stages.values() for row in stage["rows"] if "failed" in row]
    yield from ("", f"{len(failed)} rows failed." if failed else "No row failed.")
    for row in failed:
        names = " ".join(
            str(row[name]) for name in ("task", "subject", "side", "opset", "dtype", "what") if name in row
        )
        yield f"- {names}: {row['failed']}"


def ratio(stages, first, second, batch, dtype, tf32, graph):
    """With both medians in ms."""
    found = [figure(stages, *side, batch, dtype, tf32, graph) for side in (first, second)]
    if None in found:
        return NOT_MEASURED
    return f"{found[0] / found[1]:.2f} ({found[0]:.3g} ÷ {found[1]:.3g} ms)"


def figure(stages, subject, side, opset, batch, dtype, tf32, graph):
    wanted = {"subject": subject, "side": side, "opset": opset, "dtype": dtype, "batch": batch}
    wanted |= {"task": "latency", "tf32": tf32, "cuda_graph": graph}
    return next((row["ms"] for row in rows(stages, wanted) if "ms" in row), None)


def rows(stages, wanted):
    for stage in stages.values():
        for row in stage["rows"]:
            if all(row.get(name) == value for name, value in wanted.items()):
                yield row


def others(stages, plan):
    for file in plan.files():
        names = {"subject": file.subject, "side": file.side, "opset": file.opset, "dtype": file.dtype}
        called = f"{file.subject}, {file.side}, opset {file.opset}, {file.dtype}"
        chosen = [row["attention"] for row in rows(stages, names | {"task": "kernels"}) if "attention" in row]
        nodes = [row["nodes"] for row in rows(stages, names | {"task": "kernels"}) if "nodes" in row]
        if nodes:
            kernels = [f"attention by {counted(chosen[0])}"] if chosen else []
            yield f"{called}: nodes", "; ".join([counted(nodes[0]), *kernels])
        for row in rows(stages, names | {"task": "memory"}):
            if "bytes" in row and row["bytes"] is not None:
                yield f"{called}: memory of batch {row['batch']} beyond one image", f"{row['bytes'] / 1e6:,.0f} MB"
        for row in rows(stages, names | {"task": "parity"}):
            if "finite" in row:
                precision = ", TF32" if row["tf32"] else ""
                yield f"{called}: beside the CPU{precision}", f"{row['apart']:.1e}" if row["finite"] else "not finite"
    yield from steps(stages, plan)
    for row in rows(stages, {"task": "rival"}):
        if "ms" in row:
            yield (
                f"{row['subject']}, PyTorch {row['side']}, {row['dtype']}, batch {row['batch']}",
                f"{row['ms']:.3g} ms",
            )
    for row in rows(stages, {"task": "tensorrt"}):
        if "ms" in row:
            yield f"{row['subject']}, {row['side']}, TensorRT in float16, batch {row['batch']}", f"{row['ms']:.3g} ms"
    for row in rows(stages, {"task": "serve-bench"}):
        if "percentiles" in row:
            p50 = row["percentiles"]["p50"]["value"]
            told = "withheld" if p50 is None else f"{p50:.3g} ms"
            yield f"serve-bench, {row['what']}", f"{'VALID' if row['valid'] else 'INVALID'}, p50 {told}"


def steps(stages, plan):
    model, twin, batch = plan.training
    for precision in ("bf16", "fp32"):
        wanted = {"task": "step", "dtype": precision}
        sides = ({"subject": model, "side": OURS}, {"subject": twin, "side": PLAIN})
        found = [next((row["ms"] for row in rows(stages, wanted | side) if "ms" in row), None) for side in sides]
        told = NOT_MEASURED if None in found else f"{found[0] / found[1]:.2f} ({found[0]:.3g} ÷ {found[1]:.3g} ms)"
        yield f"training step {model} ÷ {twin}, batch {batch}, {precision}", told


def counted(found):
    return ", ".join(f"{count} × {name.removesuffix('ExecutionProvider')}" for name, count in found.items())


if __name__ == "__main__":
    sys.exit(main())

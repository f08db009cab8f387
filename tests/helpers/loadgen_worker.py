"""MLPerf LoadGen's server scenario against `Stub`, in a process of its own: what is wrong with LoadGen ends there.

Takes JSON from stdin: `out` (a folder for its trace), `rate` (a second), `service` (nanoseconds) and `servers`.
"""

import json
import sys

import mlperf_loadgen as loadgen
from fake_systems import Stub


def main():
    order = json.load(sys.stdin)
    stub = Stub(order["service"], order["servers"])

    def issue(samples):
        for sample in samples:
            response = loadgen.QuerySampleResponse(sample.id, 0, 0)
            stub(lambda response=response: loadgen.QuerySamplesComplete([response]))

    system = loadgen.ConstructSUT(issue, lambda: None)
    library = loadgen.ConstructQSL(64, 64, lambda _: None, lambda _: None)
    loadgen.StartTestWithLogSettings(system, library, settings(order), log_settings(order["out"]))
    loadgen.DestroyQSL(library)
    loadgen.DestroySUT(system)


def settings(order):
    made = loadgen.TestSettings()
    made.scenario = loadgen.TestScenario.Server
    made.mode = loadgen.TestMode.PerformanceOnly
    made.server_target_qps = order["rate"]
    made.server_target_latency_ns = 10**9
    made.min_duration_ms = 0
    made.min_query_count = made.max_query_count = len(order["service"])
    return made


def log_settings(folder):
    made = loadgen.LogSettings()
    made.enable_trace = True
    made.log_output.outdir = folder
    made.log_output.copy_summary_to_stdout = False
    return made


if __name__ == "__main__":
    main()

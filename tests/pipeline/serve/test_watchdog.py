"""What becomes of a service that answers wrongly, late or not at all, without one."""

import threading
from pathlib import Path

import pytest
from served import facts, query

from aaexport.errors import ServiceError, UnprovedError
from aaexport.folder import ModelFolder
from aaexport.pipeline.serve.live import Live
from aaexport.pipeline.serve.options import ServeOptions
from aaexport.pipeline.serve.serve import RELOADS, Serving
from aaexport.serving.repository import RepositorySettings
from aaexport.serving.service import Served
from aaexport.serving.versions import Version, record_path, served_folder

WRONG = UnprovedError("digits must answer its golden vectors, got logits off by 1.0e+00")
LATE = ServiceError("url must be answered within 30 s", retryable=True)


class FakeProcess:
    def __init__(self):
        self.is_alive = True

    def alive(self):
        return self.is_alive

    def ended(self):
        return "signal SIGSEGV"

    def complaints(self):
        return "a fault"


class FakeService:
    """Says of each proof, in order, what is wrong with it; then all is right for good."""

    def __init__(self, *faults, progress=()):
        self.faults, self.progresses = list(faults), list(progress)
        self.reloads = self.proofs = 0
        self.process = FakeProcess()

    def glance(self, served):
        self.proofs += 1
        if self.faults and (fault := self.faults.pop(0)) is not None:
            raise fault

    def reload(self, served):
        self.reloads += 1
        self.glance(served)

    def dead_models(self):
        return frozenset()

    def progress(self, served):
        return self.progresses.pop(0)


def serving(service, say=lambda line: None):
    running = Serving(service, ServeOptions(check_every=1e-9), say, threading.Event())
    served = Served(facts(golden=(query(),)), 1, RepositorySettings())
    folder = ModelFolder(Path("nowhere"))
    running.live = [Live(folder, folder.path, served, Version(1, "ab", "2026-01-31T09:30:00Z"), None, None)]
    return running


def test_a_wrong_answer_has_the_model_loaded_anew_and_it_is_said():
    said = []
    service = FakeService(WRONG)
    serving(service, said.append)._ask_all()
    assert service.reloads == 1
    assert said[0].startswith("digits is loaded anew (1 of 3): digits must answer its golden vectors")
    assert said[1].startswith("digits answers right again after ")


@pytest.mark.parametrize("name", ["digits", "digits_image"])
def test_a_backend_that_ended_is_loaded_anew_also_where_another_instance_still_answers(name):
    service, said = FakeService(), []
    serving(service, said.append)._ask_all(frozenset([name]))
    assert service.reloads == 1
    assert said[0] == "digits is loaded anew (1 of 3): a process of its backend has ended"


def test_a_dead_model_of_another_folder_is_not_this_ones():
    service = FakeService()
    serving(service)._ask_all(frozenset(["digits2"]))
    assert service.reloads == 0


def test_three_reloads_that_do_not_help_are_the_end():
    service = FakeService(*[WRONG] * (1 + RELOADS))
    with pytest.raises(UnprovedError, match="digits must answer right after 3 reloads, but: digits must answer"):
        serving(service)._ask_all()
    assert service.reloads == RELOADS
    assert UnprovedError.exit_code == 7


def test_reloads_are_counted_over_several_faults_in_a_row():
    service = FakeService(*[WRONG, None] * RELOADS, WRONG)
    running = serving(service)
    for _ in range(RELOADS):
        running._ask_all()
    with pytest.raises(UnprovedError):
        running._ask_all()
    assert service.reloads == RELOADS


def test_a_late_answer_of_a_busy_server_is_no_fault():
    service = FakeService(LATE, LATE, LATE, progress=(10, 20, 30))
    running = serving(service)
    for _ in range(3):
        running._ask_all()
    assert service.reloads == 0


def test_a_server_that_answers_nobody_is_dead_after_two_late_answers():
    service = FakeService(LATE, LATE, progress=(0, 0))
    running = serving(service)
    running._ask_all()
    assert service.reloads == 0
    running._ask_all()
    assert service.reloads == 1


def test_a_server_that_is_gone_is_said_with_how_it_ended():
    service = FakeService()
    service.process.is_alive = False
    with pytest.raises(UnprovedError, match="it ended with signal SIGSEGV: a fault"):
        serving(service).keep()


def test_a_record_that_cannot_be_read_does_not_end_the_service(tmp_path):
    said = []
    running = serving(FakeService(), said.append)
    running.live[0].keep = tmp_path
    served_folder(tmp_path).mkdir()
    record_path(tmp_path).write_text("{")
    running._follow(running.live[0])
    running._follow(running.live[0])
    (line,) = said
    assert "version 1 stays" in line
    assert "served.json must be as `aaexport serve` wrote it" in line

"""An engine's last lines tell what it died of, and no prompt and no secret."""

from __future__ import annotations

from workers.driver.last_lines import MAX_LINES, telling

VLLM = """\
2026-11-24 17:00:00,000 INFO workers.replica.replica: replica-0 ready
(EngineCore pid=123) ERROR 11-24 17:00:01 [dump_input.py:72] Dumping input data for V1 LLM engine with prompt 'canary'
(EngineCore pid=123) ERROR 11-24 17:00:01 [dump_input.py:79] SchedulerOutput(scheduled_new_reqs=[canary])
(EngineCore pid=123) ERROR 11-24 17:00:01 [core.py:900] EngineCore encountered a fatal error.
(EngineCore pid=123) ERROR 11-24 17:00:01 [core.py:900] Traceback (most recent call last):
(EngineCore pid=123) ERROR 11-24 17:00:01 [core.py:900]   File "/opt/vllm/v1/engine/core.py", line 891, in run
(EngineCore pid=123) ERROR 11-24 17:00:01 [core.py:900]     engine_core.run_busy_loop()
(EngineCore pid=123) ERROR 11-24 17:00:01 [core.py:900]   File "/opt/vllm/v1/worker/gpu_worker.py", line 12, in execute
(EngineCore pid=123) ERROR 11-24 17:00:01 [core.py:900]     prompt = 'canary'
(EngineCore pid=123) ERROR 11-24 17:00:01 [core.py:900] torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB
\x1b[31mRuntimeError: endpoint refused token=tok-1234567 for AKIASECRETVALUE\x1b[0m
"""


def test_errors_and_the_place_of_the_last_frame_are_told() -> None:
    told = telling(VLLM.splitlines(), {"AWS_SECRET_ACCESS_KEY": "AKIASECRETVALUE"})
    assert told.splitlines() == [
        "  gpu_worker.py:12",
        "torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB",
        "RuntimeError: endpoint refused token=*** for ***",
    ]


def test_what_is_told_is_short_and_ends_with_the_end() -> None:
    told = telling([f"ValueError: {n} " + "x" * 1000 for n in range(100)], {}).splitlines()
    assert len(told) == MAX_LINES
    assert told[-1].startswith("ValueError: 99")
    assert all(len(line) <= 240 for line in told)


def test_ordinary_output_is_not_told() -> None:
    assert telling(["INFO 11-24 17:00:00 [x.py:1] a prompt", "no error here", ""], {}) == ""

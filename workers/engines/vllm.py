"""The `vllm` engine: one AsyncLLM, fed with token ids, asked for final outputs only."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import psutil

from jobs.models.encoding import Encoder
from jobs.rows.structured import guided_schema
from schemas.codes import RowError
from schemas.records import Plan
from schemas.sampling import RepetitionDetection, Sampling, StructuredOutputs
from schemas.spec import EngineSpec
from workers.engines import compiled as code
from workers.engines import fork_server, start_log
from workers.engines.base import Completion, EngineDead, EngineInfo, Output, RowFailed
from workers.engines.limits import Device, Limits, resolve_limits
from workers.engines.model_size import model_size
from workers.engines.vllm_scoring import Scorer
from workers.within import within

log = logging.getLogger(__name__)

STOP_S = 5.0

CPU_KV_CACHE_GIB = 1
"""vLLM's CPU backend takes half of the machine's memory for its KV cache unless told otherwise."""


class VllmEngine:
    """One model copy on this process's GPUs (those Ray gave to the actor) or on the CPU."""

    def __init__(
        self,
        spec: EngineSpec,
        model_path: str,
        encoder: Encoder,
        plan: Plan | None = None,
        *,
        on_gpu: bool,
        scores: bool = False,
        fingerprint: str | None = None,
        compiled: str | None = None,
        on_phase: Callable[[str, float, float], None] = lambda *_: None,
    ) -> None:
        self._on_phase = on_phase
        self._fingerprint, self._compiled = fingerprint, compiled
        self._spec = spec
        self._model_path = model_path
        self._encoder = encoder
        self._plan = plan
        self._on_gpu = on_gpu
        self._scores = scores
        self._llm: Any = None
        self._processes: set[psutil.Process] = set()
        self.steps = self.waiting = self._preemptions = 0
        self._asked_at = 0.0

    async def start(self) -> EngineInfo:
        import_vllm(on_gpu=self._on_gpu)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        limits = resolve_limits(
            self._spec,
            self._plan,
            self._device(),
            model_size(self._model_path, self._spec),
            model_max_len=self._encoder.max_model_len,
            scores=self._scores,
        )
        log.info("engine limits for %s: %s", "the planned rows" if self._plan else "rows of any length", limits)
        fork_server.use()
        others = set(psutil.Process().children(recursive=True))

        def open_engine() -> None:
            args = AsyncEngineArgs(**self._arguments(limits))
            with start_log.phases(self._on_phase):
                self._llm = AsyncLLM.from_engine_args(args, stat_loggers=[self._pulse, *_stat_loggers()])

        self._with_compiled_code(open_engine)
        self._processes = set(psutil.Process().children(recursive=True)) - others
        config = self._llm.vllm_config
        return EngineInfo(
            max_num_seqs=config.scheduler_config.max_num_seqs,
            max_model_len=config.model_config.max_model_len,
            kv_tokens=config.cache_config.num_gpu_blocks * config.cache_config.block_size,
            kv_block_tokens=config.cache_config.block_size,
            device=self._device_name(),
            details={
                "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
                "tensor_parallel_size": config.parallel_config.tensor_parallel_size,
                "dtype": str(config.model_config.dtype),
                "kv_cache_dtype": str(config.cache_config.cache_dtype),
                "quantization": config.model_config.quantization,
                "speculative_ngram": self._spec.speculative_ngram,
                "cuda_graph_sizes": " ".join(map(str, limits.graph_sizes)),
            },
        )

    @property
    def _compiles(self) -> bool:
        return self._on_gpu and not self._spec.enforce_eager

    def _with_compiled_code(self, open_engine: Callable[[], None]) -> None:
        """Open the engine with the code that was compiled before, if there is any; if it fails, once more without."""
        used = None
        if self._compiles:
            used = code.use(self._model_path, self._fingerprint, self._compiled, on_gpu=self._on_gpu)
        if used is None:
            open_engine()
            return
        try:
            open_engine()
        except Exception as error:  # noqa: BLE001 - vLLM raises anything; if the code is not at fault, it does so again
            log.warning("the engine did not start with compiled code (%s) and compiles by itself", type(error).__name__)
            used.leave()
            open_engine()
            used.reject()

    async def generate(
        self, request_id: str, token_ids: Sequence[int], sampling: Sampling, salt: str | None = None
    ) -> Output:
        final = await self.request(request_id, token_ids, self._sampling_params(sampling), salt)
        completions = sorted(final.outputs, key=lambda completion: completion.index)
        if sampling.structured_outputs and any(c.finish_reason == "error" for c in completions):
            # vLLM ends an answer like this if the form's compiler gives up on its next token.
            raise RowFailed(
                RowError.INVALID_FORM, "structured_outputs: the engine could not keep the answer in its form"
            )
        if sampling.deterministic:
            completions *= sampling.n
        return Output(
            completions=[self._completion(c, decoded=bool(sampling.stop)) for c in completions],
            num_cached_tokens=final.num_cached_tokens or 0,
        )

    async def score(
        self, request_id: str, context: Sequence[int], choices: Sequence[Sequence[int]], salt: str | None = None
    ) -> Output:
        return await Scorer(partial(self.request, salt=salt)).score(request_id, context, choices)

    async def request(self, request_id: str, token_ids: Sequence[int], params: Any, salt: str | None = None) -> Any:
        """Run one request with vLLM's own parameters and translate its errors into ours.

        Raises:
            RowFailed, EngineDead: as `generate`.
        """
        from vllm import TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError

        prompt = TokensPrompt(prompt_token_ids=token_ids)
        if salt is not None:
            prompt["cache_salt"] = salt
        final = None
        if not self.steps and not self._asked_at:
            self._asked_at = time.monotonic()
        try:
            async for output in self._llm.generate(prompt, params, request_id):
                final = output
        except EngineDeadError as error:
            raise EngineDead(str(error)) from error
        except Exception as error:
            # The message can quote the values of a request: report only the error's type.
            if self._llm.errored:
                raise EngineDead(f"the engine failed with {type(error).__name__}") from error
            raise RowFailed(RowError.ENGINE_ERROR, f"the engine refused the row ({type(error).__name__})") from error
        if final is None:
            raise RowFailed(RowError.ENGINE_ERROR, "the engine gave no output")
        return final

    async def stop(self) -> None:
        """See `Engine.stop`: processes that do not end by themselves within `STOP_S` seconds are killed."""
        if self._llm is None:
            return
        log.info(
            "the engine took %d steps and preempted rows %d times for want of KV cache", self.steps, self._preemptions
        )
        # vLLM's task that receives outputs logs a traceback if the engine's process ends before it.
        if (receiving := getattr(self._llm, "output_handler", None)) is not None:
            receiving.cancel()
            await asyncio.wait({receiving}, timeout=STOP_S)
        with suppress(TimeoutError):
            await within(STOP_S, asyncio.to_thread(self._llm.shutdown))
        for process in self._processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _pulse(self, vllm_config: Any, engine_index: int = 0) -> Any:
        """Build the logger to which vLLM gives its statistics after every engine step; it passes them to `_look`."""
        from vllm.v1.metrics.loggers import StatLoggerBase

        look = self._look

        class Pulse(StatLoggerBase):  # type: ignore[misc]
            def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
                pass

            def record(self, scheduler_stats: Any = None, iteration_stats: Any = None, *_: Any, **__: Any) -> None:
                look(scheduler_stats, iteration_stats)

            def log_engine_initialized(self) -> None:
                pass

        return Pulse(vllm_config, engine_index)

    def _look(self, scheduler_stats: Any, iteration_stats: Any) -> None:
        self.steps += 1
        if self.steps == 1:
            now = time.monotonic()
            self._on_phase("first step of the engine", now, now - self._asked_at)
        if scheduler_stats is not None:
            self.waiting = scheduler_stats.num_waiting_reqs
        if iteration_stats is not None:
            self._preemptions += iteration_stats.num_preempted_reqs

    def _device(self) -> Device:
        if not self._on_gpu:
            return Device(on_gpu=False, memory_bytes=0)
        from vllm.platforms import current_platform

        return Device(on_gpu=True, memory_bytes=current_platform.get_device_total_memory())

    def _device_name(self) -> str:
        from vllm.platforms import current_platform

        if not self._on_gpu:
            return f"{platform.machine()} CPU, {os.environ.get('OMP_NUM_THREADS', os.cpu_count())} threads"
        count = self._spec.tensor_parallel_size
        return (f"{count} x " if count > 1 else "") + str(current_platform.get_device_name())

    def _arguments(self, limits: Limits) -> dict[str, Any]:
        from vllm.config import StructuredOutputsConfig

        spec = self._spec
        return {
            "model": self._model_path,
            "trust_remote_code": False,
            "load_format": "safetensors" if spec.load_format == "auto" else spec.load_format,
            "dtype": spec.dtype,
            "max_model_len": limits.max_model_len,
            "max_num_seqs": limits.max_num_seqs,
            "max_num_batched_tokens": limits.max_num_batched_tokens,
            "gpu_memory_utilization": spec.gpu_memory_utilization,
            "tensor_parallel_size": spec.tensor_parallel_size,
            # One actor holds all GPUs of its replica, on one node: vLLM's own processes share them.
            "distributed_executor_backend": "mp" if spec.tensor_parallel_size > 1 else None,
            "enable_prefix_caching": True,
            "enable_chunked_prefill": True,
            # On the CPU, torch.compile needs a C++ compiler at run time and half a minute, for little gain.
            "enforce_eager": not self._compiles,
            "max_logprobs": 20,
            # The compiler that `jobs.rows.structured` checks with: what planning accepts, the engine can do.
            "structured_outputs_config": StructuredOutputsConfig(backend="guidance"),
            "disable_log_stats": False,
            "enable_log_requests": False,
            "quantization": spec.quantization,
            "kv_cache_dtype": spec.kv_cache_dtype,
            "speculative_config": None if spec.speculative_ngram is None else _guessing(spec.speculative_ngram),
            **({"cudagraph_capture_sizes": list(limits.graph_sizes)} if limits.graph_sizes else {}),
        }

    def _sampling_params(self, sampling: Sampling) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        values = sampling.model_dump()
        values["stop"], values["bad_words"] = list(sampling.stop), list(sampling.bad_words)
        if sampling.deterministic:
            values["n"] = 1  # vLLM refuses to give one answer several times
        values["structured_outputs"] = _structured(sampling.structured_outputs)
        values["repetition_detection"] = _detection(sampling.repetition_detection)
        return SamplingParams(
            **values,
            stop_token_ids=[] if sampling.ignore_eos else list(self._encoder.eos_ids),
            output_kind=RequestOutputKind.FINAL_ONLY,
            # Text is needed token by token only to find stop strings; otherwise it is decoded once, at the end.
            detokenize=bool(sampling.stop),
        )

    def _completion(self, completion: Any, *, decoded: bool) -> Completion:
        logprobs = completion.logprobs
        return Completion(
            text=completion.text if decoded else None,
            token_ids=list(completion.token_ids),
            finish_reason=completion.finish_reason or "error",
            cumulative_logprob=completion.cumulative_logprob,
            logprobs=None if logprobs is None else _flatten(completion.token_ids, logprobs),
        )


def import_vllm(*, on_gpu: bool) -> None:
    """Import what an engine needs and set its environment; takes seconds, and may run in a thread."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if on_gpu:
        # vLLM can overestimate the memory of CUDA graphs twentyfold: 29 GiB of an H200 for graphs of up to 1,024
        # tokens that took 1.3 (vLLM 0.26), all of it lost to the KV cache. The memory that `gpu_memory_utilization`
        # leaves free holds them.
        os.environ.setdefault("VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS", "0")
    else:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(CPU_KV_CACHE_GIB))
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    fork_server.start()
    import vllm.v1.engine.async_llm  # noqa: F401


def _guessing(num_tokens: int) -> dict[str, Any]:
    """Configure speculative decoding: find the last few tokens earlier in the row and guess what followed there."""
    return {"method": "ngram", "num_speculative_tokens": num_tokens, "prompt_lookup_min": 2, "prompt_lookup_max": 4}


def _structured(form: StructuredOutputs | None) -> Any:
    from vllm.sampling_params import StructuredOutputsParams

    if form is None:
        return None
    return StructuredOutputsParams(
        json=None if form.json_schema is None else guided_schema(form.json_schema),
        regex=form.regex,
        choice=None if form.choice is None else list(form.choice),
    )


def _detection(wanted: RepetitionDetection | None) -> Any:
    if wanted is None:
        return None
    from vllm.sampling_params import RepetitionDetectionParams

    return RepetitionDetectionParams(**wanted.model_dump())


def _stat_loggers() -> list[Any]:
    """Return vLLM's logger to Ray's Prometheus endpoint; vLLM imports Ray Serve for it, which may be absent."""
    try:
        from ray import serve  # noqa: F401
    except ImportError as error:
        log.warning("vLLM's metrics are missing from Ray's endpoint: %s (pip install 'ray[serve]')", error)
        return []
    from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger

    return [RayPrometheusStatLogger]


def _flatten(token_ids: Sequence[int], logprobs: Sequence[Any]) -> list[tuple[int, float, list[tuple[int, float]]]]:
    """Convert vLLM's per-position {token id: Logprob} to (chosen id, its logprob, alternatives by rank)."""
    result = []
    for chosen, position in zip(token_ids, logprobs, strict=True):
        ranked = sorted(position.items(), key=lambda item: (item[1].rank, item[0]))
        top = [(token, entry.logprob) for token, entry in ranked]
        result.append((chosen, position[chosen].logprob, top))
    return result

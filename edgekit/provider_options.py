"""The provider options that a profile may set, by execution provider.

ONNX Runtime takes an unknown option in silence or fails at load, so profiles are checked here.

Sources: onnxruntime.ai/docs/execution-providers for CUDA, DirectML, OpenVINO and QNN; the option
names inside the plug-in libraries of onnxruntime-ep-webgpu 0.4.0, onnxruntime-ep-openvino 1.8.1
and onnxruntime-qnn 2.7.0; genai's own keys for DirectML and WebGPU.
"""

from collections.abc import Mapping
from typing import Final

PROVIDER_OPTIONS: Final[Mapping[str, frozenset[str]]] = {
    "CPUExecutionProvider": frozenset(),
    "CUDAExecutionProvider": frozenset(
        {
            "arena_extend_strategy",
            "device_id",
            "do_copy_in_default_stream",
            "enable_cuda_graph",
            "enable_skip_layer_norm_strict_mode",
            "gpu_mem_limit",
            "prefer_nhwc",
            "use_ep_level_unified_stream",
            "use_tf32",
        }
    ),
    "DmlExecutionProvider": frozenset(
        {"device_id", "disable_metacommands", "enable_graph_capture", "performance_preference"}
    ),
    "WebGpuExecutionProvider": frozenset(
        {
            "dawnBackendType",
            "deviceId",
            "enableGraphCapture",
            "enableInt64",
            "enableRobustness",
            "maxNumPendingDispatches",
            "maxStorageBufferBindingSize",
            "multiRotaryCacheConcatOffset",
            "powerPreference",
            "preferredLayout",
            "preserveDevice",
            "storageBufferCacheMode",
            "uniformBufferCacheMode",
            "validationMode",
        }
    ),
    "OpenVINOExecutionProvider": frozenset(
        {
            "cache_dir",
            "device_id",
            "device_type",
            "enable_causallm",
            "enable_opencl_throttling",
            "enable_qdq_optimizer",
            "load_config",
            "model_priority",
            "num_of_threads",
            "num_streams",
            "precision",
            "reshape_input",
        }
    ),
    "QNNExecutionProvider": frozenset(
        {
            "device_id",
            "enable_htp_fp16_clamp_overflow",
            "enable_htp_fp16_precision",
            "enable_htp_shared_memory_allocator",
            "enable_htp_spill_fill_buffer",
            "extended_udma",
            "htp_arch",
            "htp_graph_finalization_optimization_mode",
            "htp_performance_mode",
            "offload_graph_io_quantization",
            "profiling_level",
            "qnn_context_priority",
            "soc_model",
            "vtcm_mb",
        }
    ),
}

# What genai's configuration takes beside the entries of ONNX Runtime, which have a dot
# (session.…, ep.…, memory.…) and are text.
SESSION_OPTIONS: Final[Mapping[str, type[bool] | type[int] | type[str]]] = {
    "enable_cpu_mem_arena": bool,
    "enable_mem_pattern": bool,
    "enable_profiling": str,
    "graph_optimization_level": str,
    "inter_op_num_threads": int,
    "intra_op_num_threads": int,
    "log_id": str,
    "log_severity_level": int,
}

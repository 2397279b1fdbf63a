"""The static pipeline for NPU compilers: graphs of fixed shape, compiled offline for QNN."""

"""Write a decoder as a graph of fixed shape, with plain operators that an NPU compiler takes.

Inputs: ``inputs_embeds`` (1, S, hidden), ``mask_i`` (1, 1, S, context), ``cos_i`` and ``sin_i``
(1, 1, S, rotated), ``past_k_l`` (1, kv heads, head, context - S), ``past_v_l`` (1, kv heads,
context - S, head), and the two LoRA halves of every projection, of one fixed rank. Outputs:
``hidden`` (1, S, hidden) after the last norm, and the new keys and values alone; the host keeps
the cache (see `edgekit_runtime.static_generator`).

Source: ONNX opset 23; ONNX Runtime contrib operator MatMulNBits; the semantics of each family are
those of its module in transformers.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.building.qnn.architecture import Decoder, Layer, Weights
from edgekit.building.qnn.graph_writer import GraphWriter
from edgekit.building.qnn.weight_file import WeightFile
from edgekit.quantizing.blocks import Blocks
from edgekit_runtime.contract import Socket, SocketContract, SocketPart

_PREFIX = "/model/layers"


class DecoderWriter(GraphWriter):
    """A decoder graph for ``n_tokens`` tokens at once, under construction.

    Args:
        decoder: What to write.
        weights: Floating-point weights by Hugging Face name: norms and biases.
        linears: Quantized weights by Hugging Face module.
        file: Where weights are stored.
        n_tokens: Tokens at once (S).
        context_tokens: Keys that a token sees at most.
        rank: Of every LoRA input.
    """

    def __init__(
        self,
        decoder: Decoder,
        weights: Weights,
        linears: Mapping[str, Blocks],
        file: WeightFile,
        *,
        n_tokens: int,
        context_tokens: int,
        rank: int,
    ) -> None:
        super().__init__(file)
        self._decoder = decoder
        self._weights = weights
        self._linears = linears
        self._n = n_tokens
        self._context = context_tokens
        self._rank = rank

    def model(self) -> Any:
        """The whole graph as an ONNX model."""
        x = self._input("inputs_embeds", (1, self._n, self._decoder.hidden_size))
        for index, layer in enumerate(self._decoder.layers):
            x = self._layer(index, layer, x)
        self._norm(x, "model.norm", "/model/norm", output="hidden")
        self._output("hidden", (1, self._n, self._decoder.hidden_size))
        return self._finished(f"decoder_{self._n}")

    def _layer(self, index: int, layer: Layer, x: str) -> str:
        """Attention and MLP, each beside a residual."""
        name, path = f"model.layers.{index}", f"{_PREFIX}.{index}"
        sandwich = self._decoder.has_sandwich_norms
        y = self._norm(x, f"{name}.input_layernorm", f"{path}/input_layernorm")
        y = self._attention(index, layer, y)
        if sandwich:
            y = self._norm(
                y, f"{name}.post_attention_layernorm", f"{path}/post_attention_layernorm"
            )
        x = self._node("Add", [x, y], f"{path}/residual_attention")
        before = "pre_feedforward_layernorm" if sandwich else "post_attention_layernorm"
        y = self._norm(x, f"{name}.{before}", f"{path}/{before}")
        y = self._mlp(index, y)
        if sandwich:
            after = "post_feedforward_layernorm"
            y = self._norm(y, f"{name}.{after}", f"{path}/{after}")
        return self._node("Add", [x, y], f"{path}/residual_mlp")

    def _attention(self, index: int, layer: Layer, x: str) -> str:
        d, n, context = self._decoder, self._n, self._context
        name, path = f"model.layers.{index}.self_attn", f"{_PREFIX}.{index}/self_attn"
        group = d.heads // d.kv_heads
        q, k, v = self._queries_keys_values(name, path, x)
        q = self._heads(q, d.heads, f"{name}.q_norm", f"{path}/q")
        k = self._heads(k, d.kv_heads, f"{name}.k_norm", f"{path}/k")
        v = self._heads(v, d.kv_heads, "", f"{path}/v", output=f"present_v_{index}")
        q = self._rotate(q, layer.rope, f"{path}/q_rope")
        k = self._rotate(k, layer.rope, f"{path}/k_rope")
        q = self._node("Mul", [q, self._scalar(d.attention_scale)], f"{path}/q_scaled")
        k = self._node("Transpose", [k], f"{path}/keys_t", f"present_k_{index}", perm=[0, 1, 3, 2])
        self._output(k, (1, d.kv_heads, d.head_dim, n))
        self._output(v, (1, d.kv_heads, n, d.head_dim))
        past_k = self._input(f"past_k_{index}", (1, d.kv_heads, d.head_dim, context - n))
        past_v = self._input(f"past_v_{index}", (1, d.kv_heads, context - n, d.head_dim))
        keys = self._node("Concat", [past_k, k], f"{path}/keys", axis=3)
        values = self._node("Concat", [past_v, v], f"{path}/values", axis=2)
        # The heads of one group share keys: they lie in one matmul, and nothing is expanded.
        q = self._reshape(q, (1, d.kv_heads, group * n, d.head_dim), f"{path}/q_grouped")
        scores = self._node("MatMul", [q, keys], f"{path}/scores")
        if d.attention_softcap:
            scores = self._softcap(scores, d.attention_softcap, f"{path}/softcap")
        scores = self._reshape(scores, (1, d.heads, n, context), f"{path}/scores_by_head")
        mask = self._input(f"mask_{layer.mask}", (1, 1, n, context))
        scores = self._node("Add", [scores, mask], f"{path}/masked")
        shares = self._node("Softmax", [scores], f"{path}/Softmax", axis=-1)
        shares = self._reshape(shares, (1, d.kv_heads, group * n, context), f"{path}/shares")
        y = self._node("MatMul", [shares, values], f"{path}/mixed")
        y = self._reshape(y, (1, d.heads, n, d.head_dim), f"{path}/mixed_by_head")
        y = self._node("Transpose", [y], f"{path}/mixed_t", perm=[0, 2, 1, 3])
        y = self._reshape(y, (1, n, d.heads * d.head_dim), f"{path}/joined")
        return self._linear(y, f"{name}.o_proj", f"{path}/o_proj")

    def _queries_keys_values(self, name: str, path: str, x: str) -> list[str]:
        if not self._decoder.is_fused:
            return [self._linear(x, f"{name}.{p}_proj", f"{path}/{p}_proj") for p in "qkv"]
        d = self._decoder
        sizes = [heads * d.head_dim for heads in (d.heads, d.kv_heads, d.kv_heads)]
        packed = self._linear(x, f"{name}.qkv_proj", f"{path}/qkv_proj")
        return self._split(packed, sizes, f"{path}/qkv_split")

    def _heads(self, x: str, heads: int, norm: str, path: str, output: str = "") -> str:
        """(1, S, heads * head) to (1, heads, S, head), normed where the family does so."""
        size = self._decoder.head_dim
        if norm and self._decoder.has_qk_norms:
            # HTP computes the norm of a tensor with four axes wrongly (onnxruntime-qnn 2.7.0).
            x = self._reshape(x, (1, self._n * heads, size), f"{path}_rows")
            x = self._norm(x, norm, f"{path}_norm")
        x = self._reshape(x, (1, self._n, heads, size), f"{path}_heads")
        return self._node("Transpose", [x], f"{path}_t", output, perm=[0, 2, 1, 3])

    def _rotate(self, x: str, rope: int, path: str) -> str:
        """Rotary embedding of the first ``rotated`` features; the others pass."""
        rotated = 2 * len(self._decoder.ropes[rope].inverse_frequencies)
        cos, sin = (
            self._input(f"{kind}_{rope}", (1, 1, self._n, rotated)) for kind in ("cos", "sin")
        )
        rest = self._decoder.head_dim - rotated
        passed = []
        if rest:
            x, *passed = self._split(x, [rotated, rest], f"{path}/parts")
        first, second = self._split(x, [rotated // 2] * 2, f"{path}/halves")
        negative = self._node("Neg", [second], f"{path}/negative")
        turned = self._node("Concat", [negative, first], f"{path}/turned", axis=-1)
        straight = self._node("Mul", [x, cos], f"{path}/cos")
        crossed = self._node("Mul", [turned, sin], f"{path}/sin")
        x = self._node("Add", [straight, crossed], f"{path}/Add")
        return self._node("Concat", [x, *passed], f"{path}/joined", axis=-1) if rest else x

    def _mlp(self, index: int, x: str) -> str:
        name, path = f"model.layers.{index}.mlp", f"{_PREFIX}.{index}/mlp"
        if self._decoder.is_fused:
            packed = self._linear(x, f"{name}.gate_up_proj", f"{path}/gate_up_proj")
            half = self._linears[f"{name}.gate_up_proj"].codes.shape[0] // 2
            gate, up = self._split(packed, [half, half], f"{path}/gate_up_split")
        else:
            gate, up = (
                self._linear(x, f"{name}.{p}_proj", f"{path}/{p}_proj") for p in ("gate", "up")
            )
        active = self._node("Mul", [self._activation(gate, path), up], f"{path}/active")
        return self._linear(active, f"{name}.down_proj", f"{path}/down_proj")

    def _activation(self, x: str, path: str) -> str:
        """SiLU ``x s(x)``, or tanh-GELU as ``x s(x (a + b x²))``, s being the sigmoid.

        The sigmoid's argument is cut to ±12, beyond which it is constant in float16 and the
        cube would overflow.
        """
        inner = x
        if self._decoder.uses_gelu:
            a = 2 * math.sqrt(2 / math.pi)
            square = self._node("Mul", [x, x], f"{path}/gelu_square")
            scaled = self._node("Mul", [square, self._scalar(a * 0.044715)], f"{path}/gelu_scaled")
            slope = self._node("Add", [scaled, self._scalar(a)], f"{path}/gelu_slope")
            product = self._node("Mul", [x, slope], f"{path}/gelu_inner")
            bounds = [self._scalar(-12.0), self._scalar(12.0)]
            inner = self._node("Clip", [product, *bounds], f"{path}/gelu_clipped")
        share = self._node("Sigmoid", [inner], f"{path}/Sigmoid")
        return self._node("Mul", [x, share], f"{path}/activation")

    def _softcap(self, x: str, cap: float, path: str) -> str:
        x = self._node("Mul", [x, self._scalar(1 / cap)], f"{path}/down")
        x = self._node("Tanh", [x], f"{path}/Tanh")
        return self._node("Mul", [x, self._scalar(cap)], f"{path}/up")

    def _linear(self, x: str, module: str, path: str) -> str:
        """Quantized matmul, bias where there is one, and the LoRA beside it."""
        blocks = self._linears[module]
        k, n = blocks.codes.shape[1] * blocks.block_size, blocks.codes.shape[0]
        socket = socket_of(module, blocks)
        y = self._node(
            "MatMulNBits",
            [
                x,
                self._stored(f"{module}.weight_Q{blocks.bits}", blocks.packed()),
                self._stored(f"{module}.scales", blocks.scales.astype(np.float16)),
            ],
            f"{path}/MatMul",
            domain="com.microsoft",
            K=k,
            N=n,
            bits=blocks.bits,
            block_size=blocks.block_size,
        )
        if f"{module}.bias" in self._weights:
            bias = self._float(f"{module}.bias", self._weights[f"{module}.bias"])
            y = self._node("Add", [y, bias], f"{path}/bias")
        a = self._input(socket.a_name, (k, self._rank))
        b = self._input(socket.b_name, (self._rank, n))
        down = self._node("MatMul", [x, a], f"{path}/lora_A")
        up = self._node("MatMul", [down, b], f"{path}/lora_B")
        return self._node("Add", [y, up], f"{path}/lora_Add")

    def _norm(self, x: str, module: str, path: str, output: str = "") -> str:
        weight = self._weights[f"{module}.weight"] + np.float32(self._decoder.norm_offset)
        return self._node(
            "RMSNormalization",
            [x, self._float(f"{module}.weight", weight)],
            f"{path}/Norm",
            output,
            axis=-1,
            epsilon=self._decoder.epsilon,
            stash_type=1,
        )


def contract_of(linears: Mapping[str, Blocks], rank: int) -> SocketContract:
    """The sockets of a static graph: one for each projection, all of one rank."""
    sockets = tuple(socket_of(module, blocks) for module, blocks in linears.items())
    return SocketContract(dtype="float16", max_rank=rank, static_rank=rank, sockets=sockets)


def socket_of(module: str, blocks: Blocks) -> Socket:
    """The socket beside one projection; it bears the projection's own name."""
    n, k = blocks.codes.shape[0], blocks.codes.shape[1] * blocks.block_size
    return Socket(name=module, k=k, n=n, parts=(SocketPart(module=module, offset=0, n=n),))

"""A blend of adapters is what PEFT makes of the same ones."""

import json
from pathlib import Path

import numpy as np

from edgekit.adapters.convert import to_sockets
from edgekit.adapters.peft_dir import read_peft_adapter
from edgekit.bases import resolve_base
from edgekit_runtime.adapter_file import AdapterFile
from edgekit_runtime.blending import blend
from edgekit_runtime.contract import SocketContract


def test_a_blend_equals_add_weighted_adapter_cat(
    built_tiny_bundle: Path,
    tiny_base: Path,
    alpha_adapter: Path,
    beta_adapter: Path,
    tmp_path: Path,
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_base), alpha_adapter, adapter_name="alpha"
    )
    model.load_adapter(beta_adapter, "beta")
    model.add_weighted_adapter(["alpha", "beta"], [0.7, 0.3], "both", combination_type="cat")
    model.save_pretrained(tmp_path, selected_adapters=["both"])
    sockets = json.loads((built_tiny_bundle / "targets/cpu/sockets.json").read_bytes())
    contract = SocketContract.from_dict(sockets, [])
    both = read_peft_adapter(
        tmp_path / "both", resolve_base(str(tiny_base)), name="both", max_rank=64
    )
    theirs = to_sockets(both.modules, contract)
    files = [
        AdapterFile.from_bytes(
            (built_tiny_bundle / f"adapters/{name}/float32.onnx_adapter").read_bytes(), where=name
        )
        for name in ("alpha", "beta")
    ]
    ours = AdapterFile.from_bytes(
        blend(list(zip(files, (0.7, 0.3), strict=True)), contract), where="x"
    )
    assert set(ours.infos) == set(theirs)
    for socket in contract.sockets:
        a, b = ours.tensor(socket.a_name), ours.tensor(socket.b_name)
        expected = theirs[socket.a_name].astype(np.float64) @ theirs[socket.b_name]
        np.testing.assert_allclose(a.astype(np.float64) @ b, expected, atol=1e-5)

"""A second device without one: tensors that say they are on PyTorch's `meta` device and hold their values in one on the CPU.

Under `OtherDevice` an operation that mixes devices fails as it does with a GPU, and so does one whose random numbers come from
another device's generator. All else is computed, so that a whole entry point is walked with its own numbers.
"""

import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Self

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

META = torch.device("meta")
COPIES = {"_to_copy", "copy_", "_local_scalar_dense"}
"""Operations between devices."""
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
"""Their indices may be on the CPU, whatever they index."""


class There(torch.Tensor):
    """A tensor on the other device."""

    values: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> Self:
        made = torch.Tensor._make_wrapper_subclass(
            cls, values.shape, values.stride(), values.storage_offset(), dtype=values.dtype, device=META
        )
        made.values = values
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Saved as what it holds."""
        return self.values.__reduce_ex__(protocol)

    def tolist(self) -> Any:
        """As of any tensor."""
        return self.detach().cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func}: the other device is gone")


class OtherDevice(TorchDispatchMode):
    """Checks devices as a GPU does.

    Args:
        generators: those that belong to the device, by what tells them apart.
    """

    def __init__(self, generators: dict[int, torch.Generator]) -> None:
        super().__init__()
        self._generators = generators

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Else the first operation imports PyTorch's compiler, which takes ten seconds.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        found = There in types
        there = found
        if kwargs.get("device") is not None:
            there = torch.device(kwargs["device"]) == META
        elif name in COPIES:
            there = isinstance(args[0], There)
        # Operations are handed another Python object of the same generator.
        if (generator := kwargs.get("generator")) and (generator._cdata in self._generators) != there:
            raise RuntimeError(f"{name}: expected a generator of the tensor's device, found another's")
        if not there and not found:
            return func(*args, **kwargs)
        theirs: dict[int, There] = {}
        here: list[torch.Tensor] = []

        def values(x: torch.Tensor) -> torch.Tensor:
            if isinstance(x, There):
                theirs[id(x.values)] = x
                return x.values
            assert x.device != META, f"{name}: a tensor of PyTorch's own on `meta`"
            here.append(x)
            return x

        inner, settings = _map(values, args), {k: _map(values, v) for k, v in kwargs.items()}
        if here and theirs and name not in COPIES:
            self._check_mixture(func, name, args, here)
        if there and "device" in settings:
            settings["device"] = torch.device("cpu")
        if name == "_efficientzerotensor":
            # It has no memory, which PyTorch knows by its type.
            func = torch.ops.aten.zeros.default
        out = func(*inner, **settings)
        return _map(lambda x: theirs[id(x)] if id(x) in theirs else There(x), out) if there else out

    def _check_mixture(self, func: Any, name: str, args: Any, here: list[torch.Tensor]) -> None:
        if name in INDEXED:
            here = [] if isinstance(args[0], There) else [args[0]]
        # A number in a tensor may be on the CPU, as with a GPU, unless it is to be changed.
        numbers = torch.Tag.pointwise in func.tags and not (
            name.endswith("_") and any(args[0] is x for x in here)
        )
        if any(x.dim() or not numbers for x in here):
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, found cpu and meta")


def _map(change: Callable[[torch.Tensor], Any], x: Any) -> Any:
    """What `change` makes of each tensor in it."""
    if isinstance(x, torch.Tensor):
        return change(x)
    return type(x)([_map(change, part) for part in x]) if isinstance(x, list | tuple) else x


@contextmanager
def other_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """What looks for a GPU finds the other device meanwhile, in every thread."""
    generators: dict[int, torch.Generator] = {}
    new, autocast, run = torch.Tensor.new_tensor, torch.autocast, threading.Thread.run

    def generator(device: torch.device | str = "cpu") -> torch.Generator:
        if torch.device(device) != META:
            return torch.Generator(device)
        made = torch.Generator()
        generators[made._cdata] = made
        return made

    # These know what `meta` is, and take no values there.
    def by(make: Any) -> Any:
        return lambda data, *, device=None, **settings: make(data, **settings).to(device)

    def new_tensor(self: torch.Tensor, data: Any) -> torch.Tensor:
        return new(self.new_empty(0, device="cpu"), data).to(self.device)

    def as_on_cpu(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return autocast("cpu" if device_type == "meta" else device_type, *args, **kwargs)

    def watched(thread: threading.Thread) -> None:
        with OtherDevice(generators):
            run(thread)

    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("ndsm", "pipelines", "tuning") and hasattr(module, "pick_device"):
            monkeypatch.setattr(
                module, "pick_device", lambda name: torch.device("cpu") if name == "cpu" else META
            )
    monkeypatch.setattr("ndsm.core.rng.torch", SimpleNamespace(Generator=generator))
    for make in (torch.tensor, torch.as_tensor):
        monkeypatch.setattr(torch, make.__name__, by(make))
    monkeypatch.setattr(torch.Tensor, "new_tensor", new_tensor)
    monkeypatch.setattr(torch, "autocast", as_on_cpu)
    # PyTorch deletes the name that would lead to the module.
    optimizer = sys.modules["torch.optim.optimizer"]
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: ["cpu", "meta"])
    monkeypatch.setattr(threading.Thread, "run", watched)
    with warnings.catch_warnings(), OtherDevice(generators):
        warnings.filterwarnings("ignore", ".*meta parameter.*no-op.*")
        yield META

"""Adam without the import of PyTorch's compiler."""

import inspect

import torch


class Adam(torch.optim.Adam):
    """PyTorch's Adam without the decorators that exclude it from compilation.

    They import the compiler, which takes nearly as long as importing PyTorch, in each process that trains. Steps are not
    compiled here (`train.compile` is for the network).
    """

    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Adam.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Adam.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))

"""Jinja that ends soon and stays small: a chat template comes with a model, and a model from anyone."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

LONGEST = 20_000  # characters of a template, and of what it makes of a short chat
LONGEST_SUM = 2000  # characters of what it adds up, which a loop may run over
NODES = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Assign, nodes.Name, nodes.Const),
    *(nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.CondExpr, nodes.Getattr, nodes.Getitem),
    *(nodes.Slice, nodes.Add, nodes.Mod, nodes.Filter, nodes.Test, nodes.Call, nodes.Dict, nodes.Pair, nodes.List),
    *(nodes.Neg, nodes.Concat),
)
FILTERS, METHODS, FUNCTIONS = {"trim"}, {"strip", "lstrip", "rstrip"}, {"raise_exception"}


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox that transformers renders chat templates in, without what can run long or take much memory.

    A template may loop over messages, but not within a loop; add short texts; and call the few filters, methods and
    functions that such templates need.

    Raises TemplateError, when it compiles or renders, if a template does anything else.
    """

    intercepted_binops = frozenset("+%")

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True)  # as transformers has it
        self.globals = {"raise_exception": refuse}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > LONGEST:
            raise TemplateError("is too long")
        tree = super()._parse(source, name, filename)
        if not is_limited(tree):
            raise TemplateError("does more than it may")
        return tree

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        match operator, left, right:
            case "+", str(), str():
                is_allowed = len(left) + len(right) <= LONGEST_SUM
            case "%", str(), str() | int():  # but not '%999999999s'
                is_allowed = "%" not in left.replace("%s", "") and len(left) + len(str(right)) <= LONGEST_SUM
            case _:
                is_allowed = isinstance(left, int) and isinstance(right, int)
        if not is_allowed:
            raise TemplateError("adds up too much, or what is neither text nor number")
        return super().call_binop(context, operator, left, right)


def render(template: Template, variables: Mapping[str, Any]) -> str:
    """What a template makes of variables.

    Raises TemplateError if that is longer than `LONGEST` characters.
    """
    text = ""
    for part in template.generate(variables):
        text += part
        if len(text) > LONGEST:
            raise TemplateError("makes too much text")
    return text


def refuse(message: str) -> None:
    """Stands for transformers' function that templates call on a chat that they do not take."""
    raise TemplateError(message)


def is_limited(node: nodes.Node, in_loop: bool = False, is_kept: bool = False) -> bool:
    """Whether a part of a template is one of those that are allowed, with all its parts.

    is_kept: whether it is assigned to a variable: there `~`, whose length nothing checks, could double a text.
    """
    match node:
        case nodes.For():
            allowed = not in_loop and not node.recursive
        case nodes.Filter():
            allowed = node.name in FILTERS
        case nodes.Call(node=nodes.Getattr(attr=name)):
            allowed = name in METHODS
        case nodes.Call(node=called):
            allowed = isinstance(called, nodes.Name) and called.name in FUNCTIONS
        case nodes.Concat():
            allowed = not is_kept
        case _:
            allowed = isinstance(node, NODES)
    in_loop, is_kept = in_loop or isinstance(node, nodes.For), is_kept or isinstance(node, nodes.Assign)
    return allowed and all(is_limited(child, in_loop, is_kept) for child in node.iter_child_nodes())

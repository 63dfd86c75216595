"""What other programs may ask for: `/submit`, `/queue` and `/status`, JSON in and JSON out.

The same three are MCP tools. A mistake of the asking program is one sentence.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from typing import Any

import gradio as gr

from engine.errors import Message, NeodragonError, RequestError
from studio.jobs.spec import Work, as_json, content_key
from studio.page.desk import Desk

KINDS = {str: Message("text"), int: Message("a whole number"), bool: Message("true or false")}


def endpoints(desk: Desk) -> dict[str, Callable[..., Any]]:
    """The functions by name; what is asked wrongly raises gr.Error with one sentence."""

    def work(
        prompt: str, look_seed: int, motion_seed: int, kind: str, mode: str, upscale: bool
    ) -> Work:
        if kind not in ("clip", "frame"):
            raise RequestError(
                "The kind is {kind!r}; choose clip or frame.",
                kind=kind,
            )
        settings = {"prompt": prompt, "look_seed": look_seed, "motion_seed": motion_seed}
        made = desk.work(
            settings | {"mode": mode, "upscale": upscale}, "frame" if kind == "frame" else "clip"
        )
        content_key(made, desk.pack)  # the pack has such a mode
        return made

    def submit(
        prompt: str,
        look_seed: int,
        motion_seed: int,
        kind: str = "clip",
        mode: str = "hybrid",
        upscale: bool = True,
    ) -> dict[str, Any]:
        """Ask for a clip or a first frame; the job, at once."""
        wanted = work(prompt, look_seed, motion_seed, kind, mode, upscale)
        return as_json(desk.jobs(desk.ask([wanted]))[0])

    def queue() -> list[dict[str, Any]]:
        """Every job of the table."""
        return [as_json(job) for job in desk.table.jobs()]

    def status(job: int) -> dict[str, Any]:
        """One job."""
        return as_json(desk.table.job(job))

    tries: dict[str, Callable[..., Any]] = {"submit": work, "status": status}
    return {
        function.__name__: _spoken(function, tries.get(function.__name__))
        for function in (submit, queue, status)
    }


def _spoken(function: Callable[..., Any], tried: Callable[..., Any] | None) -> Callable[..., Any]:
    """The function, its values checked, its errors said and not traced.

    Its `bind` gives the values in order, after they went through `tried`; raises RequestError.
    """
    signature = inspect.signature(function, eval_str=True)

    def bind(*values: Any, **named: Any) -> tuple[Any, ...]:
        try:
            bound = signature.bind(*values, **named)
        except TypeError as error:
            raise RequestError(
                "The function takes the values {names} ({error}); correct them and send them "
                "again.",
                names=", ".join(signature.parameters),
                error=str(error),
            ) from error
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            _check(name, value, signature.parameters[name].annotation)
        if tried is not None:
            tried(*bound.args)
        return bound.args

    @functools.wraps(function)
    def checked(*values: Any, **named: Any) -> Any:
        try:
            return function(*bind(*values, **named))
        except NeodragonError as error:
            raise gr.Error(str(error), print_exception=False, title="Not accepted") from None

    checked.__signature__ = signature  # type: ignore[attr-defined]
    checked.bind = bind  # type: ignore[attr-defined]
    return checked


def _check(name: str, value: Any, kind: Any) -> None:
    if type(value) is not kind or (kind is int and not 0 <= value < 2**63):
        raise RequestError(
            "The value of {name} is {value}; send {kind}.",
            name=name,
            kind=KINDS[kind],
            value=json.dumps(value, default=str)[:60],
        )


def completed(function: Any, body: bytes, by_name: bool) -> bytes:
    """The body of a request with every value in it, for Gradio; raises NeodragonError.

    body: JSON, {"data": [values in order]} or by name, {"prompt": ..}; by_name: which of them comes
    out.
    """
    names = list(inspect.signature(function).parameters)
    try:
        request = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        request = None
    data = request.get("data", []) if isinstance(request, dict) else None
    if not isinstance(data, list):
        raise RequestError(
            "The request is not JSON like {example}; correct it and send it again.",
            example=json.dumps({"data": names}),
        )
    named = {name: request[name] for name in names if name in request}
    values = function.bind(*data, **named)
    if by_name:
        return json.dumps(dict(zip(names, values, strict=True))).encode()
    session = request.get("session_hash")  # the rest of what Gradio takes is its own page's
    if session is not None:
        _check("session_hash", session, str)
    return json.dumps({"data": list(values), "session_hash": session}).encode()

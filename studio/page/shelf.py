"""The library as HTML: tiles, the open clip, clips side by side, forks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape

from engine.config import Geometry
from studio.language.catalogue import Speaker
from studio.library.family import Branch
from studio.library.store import STARS, Item
from studio.page import html, player

MOST = 9  # compared at once
VERBS = (*player.VERBS, "create", "batch")


def grid(items: Sequence[Item], at: int, chosen: Collection[str], say: Speaker) -> str:
    """Tiles of items: at is the open one; chosen: paths."""
    if not items:
        return f'<p class="aside">{escape(say("library.none"))}</p>'
    tiles, select = [], escape(say("library.choose"))
    for number, item in enumerate(items):
        on = str(item.path) in chosen
        kept = " kept" if item.verdict == "keep" else ""
        forks = item.recorded.get("forks")
        mark = f"<i>{escape(say('library.fork'))}</i>" if forks else ""
        tiles.append(
            f'<li class="{"shown" if number == at else ""}{kept}{" chosen" * on}">'
            f'<button class="film" data-do="open" data-id="{number}"'
            f' title="{escape(item.prompt)}">{_thumbnail(item)}{mark}'
            f"<span>{escape(say.moment(item.created))} {'★' * item.stars}</span></button>"
            f'<button class="verb" data-do="choose" data-id="{number}"'
            f' aria-pressed="{str(on).lower()}">{select}</button></li>'
        )
    return f'<ul class="strip">{"".join(tiles)}</ul>'


def viewer(
    items: Sequence[Item],
    at: int,
    chosen: Collection[str],
    family: Sequence[Branch],
    geometry: Geometry,
    say: Speaker,
    count: int,
) -> str:
    """The open item with what can be done to it, or those that are chosen side by side.

    count: the number of what the page told and this answers (library.js).
    """
    if not items:
        return _button("undo", say("library.undo"), "z")  # the last one may just have been rejected
    picked = [item for item in items if str(item.path) in chosen]
    if len(picked) > 1:
        cells = "".join(f'<div class="cell">{_player(item)}</div>' for item in picked[:MOST])
        columns = 2 if len(picked) < 5 else 3
        wall = f'<div class="stage wall sync" style="--columns: {columns}">{cells}</div>'
        chips = escape(say("library.chosen", count=len(picked)))
        return (
            f'{wall}<div class="caption"><ul><li>{chips}</li></ul>{_marks(picked[0], say)}'
            f"{_button('join', say('library.join'), 'j')}"
            f"{html.button('film', 0, say('player.film'))}"
            f"{_button('alone', say('library.alone'), 'Escape')}</div>"
        )
    item = items[at]
    bar = player.bar(at, geometry, say, VERBS) if item.kind == "clip" else ""
    steps = _button("previous", say("library.previous"), "ArrowLeft")
    steps += _button("next", say("library.next"), " ")
    folder = html.button("folder", at, say("library.folder"))
    facts = f"{item.path.name} · {item.look_seed} · {item.motion_seed}"
    return (
        f'<div class="cull" data-open="{html.address(item.path)}" data-count="{count}">'
        f'<div class="stage">{_player(item)}</div>{bar}'
        f'<div class="caption">{_marks(item, say)}<span class="together">{steps}{folder}</span>'
        f"<p>{escape(item.prompt)}</p><p>{escape(facts)}</p></div></div>"
        f"{_tree(family, items, item, say)}{_ahead(items[at + 1 : at + 2])}"
    )


def _marks(item: Item, say: Speaker) -> str:
    """Keep, reject, undo and stars, of an item or of all that are chosen with it."""
    rejected = item.verdict == "reject"
    verbs = [("back" if rejected else "keep", "p"), *([] if rejected else [("reject", "x")])]
    buttons = "".join(
        _button(verb, say(f"library.{verb}"), key) for verb, key in [*verbs, ("undo", "z")]
    )
    stars = "".join(
        f'<button class="verb star" data-do="star" data-id="{n}" data-key="{n}"'
        f' aria-label="{n}">{"★" if n <= item.stars else "☆"}</button>'
        for n in range(1, STARS + 1)
    )
    return f'{buttons}<span class="stars">{stars}</span>'


def _tree(family: Sequence[Branch], items: Sequence[Item], shown: Item, say: Speaker) -> str:
    """A clip and its forks, each to be opened where it is listed; "" where there are none."""
    if sum(map(_size, family)) < 2:
        return ""
    places = {item.path: number for number, item in enumerate(items)}

    def one(branch: Branch) -> str:
        item = branch.item
        title = say("library.whole") if branch.unit is None else say("library.from", n=branch.unit)
        label = f"{title} · {item.path.stem}"
        at = places.get(item.path)
        here = ' aria-current="true"' if item.path == shown.path else ""
        name = escape(label)
        if at is not None:
            name = f'<button class="verb" data-do="open" data-id="{at}"{here}>{name}</button>'
        below = "".join(map(one, branch.forks))
        return f"<li>{name}{f'<ul>{below}</ul>' if below else ''}</li>"

    return f'<ul class="tree">{"".join(map(one, family))}</ul>'


def _size(branch: Branch) -> int:
    return 1 + sum(map(_size, branch.forks))


def _ahead(items: Sequence[Item]) -> str:
    """The next clip, so that it is there when it is asked for."""
    return "".join(
        f'<video src="{html.address(item.path)}" preload="auto" muted hidden></video>'
        for item in items
        if item.kind == "clip"
    )


def _thumbnail(item: Item) -> str:
    """A small picture; a clip plays while it is pointed at (page.js)."""
    what = "film" if item.kind == "clip" else "picture"
    source = html.thumbnail(item.path, item.created)
    return (
        f'<img src="{source}" alt="{escape(item.prompt)}" loading="lazy"'
        f' data-{what}="{html.address(item.path)}">'
    )


def _player(item: Item) -> str:
    source, prompt = html.address(item.path), escape(item.prompt)
    if item.kind == "frame":
        return f'<img src="{source}" alt="{prompt}">'
    return f'<video src="{source}" aria-label="{prompt}" autoplay muted loop playsinline></video>'


def _button(verb: str, label: str, key: str) -> str:
    return (
        f'<button class="verb" data-do="{verb}" data-id="0" data-key="{escape(key)}">'
        f"{escape(label)}</button>"
    )

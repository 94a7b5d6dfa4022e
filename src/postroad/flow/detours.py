"""Another source address for mail whose own is not welcome at its site; pure.

A site that refuses one source address of ours (`change-source` of the provider file) gets the mail from the next one of
the same pool, until the first has been tried again and taken. The pool is that of the route, so a reputation is risked
only where somebody put the addresses together.

Invariant: a delivery goes through the choices of its course in their order, each at most once in an attempt.
"""

from __future__ import annotations

from postroad.flow.lanes import Lane
from postroad.flow.parcels import Delivery, Parcel
from postroad.flow.routing import Course
from postroad.flow.shaping import State
from postroad.flow.turns import PATIENCE_S


def turn_aside(delivery: Delivery, lane: Lane, now: float) -> bool:
    """Gives a delivery its next source address when the lane's own is not welcome; False when it stays."""
    shape = lane.site.shape
    if not shape.by_source or not shape.is_shut(now):
        return False
    course = delivery.course.following
    if course is None:
        return False
    refused = f"from {_sources(delivery.course)} ({shape.why})"
    why = f"nor {refused}" if delivery.detour else f"{lane.site} takes nothing {refused}"
    delivery.turn_aside(course, why, shape.until if shape.state is State.SUSPENDED else now + PATIENCE_S)
    return True


def tell_detour(parcel: Parcel, lane: Lane) -> None:
    """Has the journal say why a parcel leaves from another source address than usual, once."""
    turned = next((delivery for delivery in parcel.deliveries if delivery.detour), None)
    if turned is not None:
        parcel.trail.append((str(lane.site), f"{turned.detour}, so this leaves from {_sources(turned.course)}"))
        for delivery in parcel.deliveries:
            delivery.detour = ""


def _sources(course: Course) -> str:
    return " and ".join(course.guise.sources)

"""Another source address for mail whose own is not welcome at its site; pure.

A site that refuses one source address of ours (`change-source` of the provider file) gets the mail from the next one of
the same pool, until the first has been tried again and taken. The pool is that of the route, so a reputation is risked
only where somebody put the addresses together.

Invariant: a delivery goes through the choices of its course in their order, each at most once in an attempt.
"""

from __future__ import annotations

from postroad.flow.lanes import Lane
from postroad.flow.parcels import Delivery, Parcel


def turn_aside(delivery: Delivery, lane: Lane, now: float) -> bool:
    """Gives a delivery its next source address when the lane's own is not welcome; False when it stays."""
    shape = lane.site.shape
    if not shape.by_source or not shape.is_shut(now):
        return False
    course = delivery.course.following
    if course is None:
        return False
    refused, taken = (" and ".join(one.guise.sources) for one in (delivery.course, course))
    delivery.turn_aside(course, f"{lane.site} takes nothing from {refused} ({shape.why}), so this leaves from {taken}")
    return True


def tell_detour(parcel: Parcel, lane: Lane) -> None:
    """Has the journal say why a parcel leaves from another source address than usual, once."""
    why = next((delivery.detour for delivery in parcel.deliveries if delivery.detour), "")
    if why:
        parcel.trail.append((str(lane.site), why))
        for delivery in parcel.deliveries:
            delivery.detour = ""

"""The room types of NYU Depth v2, which VPD's depth network is told."""

from __future__ import annotations

NYU_ROOMS: tuple[str, ...] = (
    "printer_room",
    "bathroom",
    "living_room",
    "study",
    "conference_room",
    "study_room",
    "kitchen",
    "home_office",
    "bedroom",
    "dinette",
    "playroom",
    "indoor_balcony",
    "laundry_room",
    "basement",
    "excercise_room",
    "foyer",
    "home_storage",
    "cafe",
    "furniture_store",
    "office_kitchen",
    "student_lounge",
    "dining_room",
    "reception_room",
    "computer_lab",
    "classroom",
    "office",
    "bookstore",
)
"""In the order of the published embedding table; the spelling "excercise_room" is the data set's."""


def room_id(name: str) -> int:
    """The first room that is a substring of a file name such as "study_room_0004_rgb_00001.jpg"; -1 if none is.

    The first one wins as in the published model: study_room is "study" (3), office_kitchen is "kitchen" (6).
    """
    return next((index for index, room in enumerate(NYU_ROOMS) if room in name), -1)

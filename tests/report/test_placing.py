from itertools import combinations

from rlhf.report.placing import along, beside, flags, spread


def test_a_text_begins_at_its_line_and_goes_where_there_is_room():
    assert flags([10.0, 190.0], [50.0, 50.0], 0, 200) == [(0, 1), (0, -1)]
    assert flags([], [], 0, 200) == []


def test_texts_of_near_lines_stand_in_rows():
    lines, widths = [50.0, 60.0, 100.0], [60.0, 90.0, 130.0]
    places = flags(lines, widths, 0, 200)
    boxes = [
        (row, at + min(side * width, 0), at + max(side * width, 0))
        for at, width, (row, side) in zip(lines, widths, places, strict=True)
    ]
    for (row, start, end), (other, since, to) in combinations(boxes, 2):
        assert row != other or end <= since or to <= start
    for at, (row, _, _) in zip(lines, boxes, strict=True):
        assert not [1 for other, start, end in boxes if other < row and start < at < end], "a line crosses a text"


def test_lines_at_one_place_get_a_row_each():
    assert len(set(flags([50.0] * 3, [90.0] * 3, 0, 100))) == 3


def test_more_lines_than_are_tried_in_every_order_are_placed_too():
    places = flags([float(10 * i) for i in range(12)], [100.0] * 12, 0, 200)
    assert len(places) == 12
    assert len(set(places)) == 12


def test_texts_beside_a_figure_are_moved_apart_as_far_as_needed():
    assert spread([0.0, 100.0], [10.0, 10.0]) == [0.0, 100.0]
    assert spread([52.0, 50.0], [10.0, 10.0]) == [56.0, 46.0]
    assert spread([0.0, 1.0, 2.0], [10.0, 10.0, 10.0]) == [-9.0, 1.0, 11.0]
    assert spread([], []) == []


def test_the_text_of_a_point_lies_on_no_other():
    points = [(50.0, 50.0), (55.0, 50.0), (60.0, 50.0)]
    places = beside(points, [(20.0, 8.0)] * 3, (0, 0, 200, 100))
    boxes = [box for box in places if box is not None]
    assert len(boxes) == 3
    for one, other in combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_a_text_without_room_is_left_out():
    assert beside([(5.0, 5.0)], [(20.0, 8.0)], (0, 0, 10, 10)) == [None]
    assert beside([(50.0, 50.0)], [(20.0, 8.0)], (0, 0, 100, 100), obstacles=[(0, 0, 100, 100)]) == [None]
    assert beside([(50.0, 50.0)], [(0.0, 0.0)], (0, 0, 100, 100)) == [None]


def test_a_line_is_an_obstacle_all_along():
    boxes = along([(0.0, 0.0), (10.0, 0.0), (10.0, 0.0)])
    assert (boxes[0], boxes[-1]) == ((-0.5, -0.5, 0.5, 0.5), (9.5, -0.5, 10.5, 0.5))
    assert len(boxes) == 6

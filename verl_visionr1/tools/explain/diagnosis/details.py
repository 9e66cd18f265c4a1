def _truncated(exam: Exam, said: _Said) -> str:
    nouns = ("point", "points") if exam.answer.points_xy else ("box", "boxes")
    end = said.answer[-1].end if said.answer else answer_start(exam.completion)
    rest = exam.completion[end:].strip()
    stop = f"; it stops at {quoted(rest[-40:])}" if rest else ""
    return f"after {plural(exam.answer.n_predicted, *nouns)} the list is cut off{stop}"


def _no_list(exam: Exam, said: _Said) -> str:
    body = exam.completion[answer_start(exam.completion) :].strip()
    if said.answer:
        return f"{plural(len(said.answer), 'object')} in the text, but no JSON list [...] around"
    return f"the answer is prose or a single value: {quoted(body)}"


def _prose(exam: Exam, said: _Said) -> str:
    if not said.answer:
        return "text stands around the answer"
    before = exam.completion[answer_start(exam.completion) : said.answer[0].start].strip(" \n[")
    after = exam.completion[said.answer[-1].end :].strip(" \n]")
    return f"{quoted(before or after)} is not part of the answer"


def _malformed(exam: Exam, said: _Said) -> str:
    example = FORMATS[exam.preset.answer_format].example
    body = exam.completion[answer_start(exam.completion) :].strip()
    return f"{quoted(body)} is not of the form {quoted(example, 60)}"


def _bad_box(exam: Exam, said: _Said) -> str:
    faulty = [(i, claim) for i, claim in enumerate(said.answer) if claim.fault]
    if not faulty:
        return f"{plural(exam.answer.n_dropped, 'object')} without four finite numbers with x1 < x2 and y1 < y2"
    numbers = listed(i for i, _ in faulty)
    return f"number {numbers} in the text is dropped ({faulty[0][1].fault})"


def _no_label(exam: Exam, said: _Said) -> str:
    bare = [p for p, label in enumerate(exam.answer.labels) if not label.strip()]
    return f"{'box' if exam.answer.boxes_xyxy else 'point'} {listed(bare)} has no label" if bare else "no label"


def _outside(exam: Exam, said: _Said) -> str:
    frame_wh = exam.speech.frame.size_wh(exam.target.size_wh, exam.speech.processed_wh)
    sx, sy = exam.scale_xy
    for p, place in enumerate(exam.answer.boxes_xyxy or exam.answer.points_xy):
        spoken = [number / scale for number, scale in zip(place, (sx, sy, sx, sy), strict=False)]
        edges = (*frame_wh, *frame_wh)
        if any(not -0.01 * edge <= number <= 1.01 * edge for number, edge in zip(spoken, edges, strict=False)):
            shown = ", ".join(f"{number:g}" for number in spoken)
            return (
                f"number {p + 1} ({shown}) reaches over frame {exam.speech.frame.name} "
                f"(0-{frame_wh[0]:g} x 0-{frame_wh[1]:g})"
            )
    return "the answer reaches over the edge of the image"


_DETAIL: Mapping[Defect, Callable[[Exam, _Said], str]] = MappingProxyType(
    {
        Defect.TRUNCATED: _truncated,
        Defect.NO_LIST: _no_list,
        Defect.PROSE: _prose,
        Defect.MALFORMED: _malformed,
        Defect.BAD_BOX: _bad_box,
        Defect.NO_LABEL: _no_label,
        Defect.OUTSIDE: _outside,
    }
)

"""How long work takes on a device, timed between calls that follow each other without a pause."""

import time

import torch


def seconds_of_calls(work, device, spans, calls=1):
    """Mean seconds of a call in each of `spans` spans of `calls`, one right behind the other.

    On a GPU the events between the spans are waited for at the end only: what Python takes to start
    a call counts just where the GPU has nothing else to do.
    """
    on_gpu = device.type == "cuda"

    def mark():
        if not on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    marks = [mark()]
    for _ in range(spans):
        for _ in range(calls):
            work()
        marks.append(mark())
    if not on_gpu:
        return [(end - begin) / calls for begin, end in zip(marks, marks[1:])]
    torch.cuda.synchronize(device)
    return [begin.elapsed_time(end) / 1e3 / calls for begin, end in zip(marks, marks[1:])]

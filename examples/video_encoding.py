"""Encode episodes, make thumbnails, pack them: a pipeline that can be killed at any time.

    python examples/video_encoding.py [DATABASE] [SECONDS_A_STEP]

If the database holds a run that has not ended, this one goes on with it at the exact await it had
reached; what was encoded already is not encoded again.
"""

import sys
import time

from durable_monty import OrchestratorService, Worker, init_db, register_function

seconds_a_step = 0.3


def step(text: str) -> None:
    time.sleep(seconds_a_step)
    print(f"  {text}", flush=True)


@register_function("encode_video")
def encode_video(filepath: str, quality: str) -> str:
    step(f"encoded {filepath} in {quality}")
    return f"{filepath.removesuffix('.mp4')}-{quality}.mp4"


@register_function("generate_thumbnail")
def generate_thumbnail(video_path: str) -> str:
    step(f"made a thumbnail of {video_path}")
    return f"{video_path.removesuffix('.mp4')}.jpg"


@register_function("create_package")
def create_package(videos: list[str], thumbnails: list[str]) -> dict[str, object]:
    step(f"packed {len(videos)} videos")
    return {"url": "https://cdn.example/episode", "videos": videos, "thumbnails": thumbnails}


CODE = """
from asyncio import gather

async def encode_episode(raw_files):
    # 1. Encode all videos in parallel (takes hours)
    videos = await gather(*[
        encode_video(f, quality='1080p')
        for f in raw_files
    ])

    # 2. Generate thumbnails in parallel
    thumbnails = await gather(*[
        generate_thumbnail(v)
        for v in videos
    ])

    # 3. Create final package
    result = await create_package(videos, thumbnails)

    return result

await encode_episode(input_files)
"""

WORKFLOW = "video_encoding"


def unfinished(service: OrchestratorService) -> str | None:
    for info in service.list("scheduled", "running", "waiting"):
        if info["workflow_id"] == WORKFLOW:
            return info["execution_id"]
    return None


def main(database: str = ":memory:", seconds: str = "0.3") -> None:
    global seconds_a_step
    seconds_a_step = float(seconds)
    service = OrchestratorService(init_db(f"sqlite:///{database}"))

    execution_id = unfinished(service)
    if execution_id is None:
        execution_id = service.start_execution(
            CODE,
            ["encode_video", "generate_thumbnail", "create_package"],
            inputs={"input_files": ["ep1.mp4", "ep2.mp4", "ep3.mp4"]},
            workflow_id=WORKFLOW,
        )
        print(f"started {execution_id}", flush=True)
    else:
        print(f"going on with {execution_id}", flush=True)

    Worker(service).run(until_complete=True)
    print(service.get_result(execution_id))


if __name__ == "__main__":
    main(*sys.argv[1:])

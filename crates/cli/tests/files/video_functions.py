from durable_monty import register_function


@register_function("encode_video")
def encode_video(filepath: str, quality: str):
    return f"{filepath}@{quality}"


@register_function("generate_thumbnail")
async def generate_thumbnail(video_path: str):
    return f"{video_path}.jpg"


@register_function("create_package")
def create_package(videos: list, thumbnails: list):
    print("packing", len(videos), "videos")
    return {"videos": videos, "thumbnails": thumbnails}


@register_function("not_mentioned")
def not_mentioned():
    raise AssertionError("nobody calls this")

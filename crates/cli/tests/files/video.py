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

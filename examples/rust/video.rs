//! The video example: encode episodes in parallel, make thumbnails, package the result.
//!
//! `video DATABASE_URL [LOG_FILE]`. Kill it at any moment and start it again: it goes on where it
//! was, and no step that was recorded is repeated. Every function call appends its idempotency
//! key to the log file. `ISOLATION=thread` runs the workflow on threads of this process.

use std::{fs::OpenOptions, io::Write as _, time::Duration};

use durable::{CallRequest, Durable, FunctionError, Isolation, Workflow};

const WORKFLOW: &str = "
from asyncio import gather

async def encode_episode(raw_files):
    # 1. Encode all videos in parallel
    videos = await gather(*[
        encode_video(f, quality='1080p')
        for f in raw_files
    ])

    # 2. Generate thumbnails in parallel
    thumbnails = await gather(*[
        generate_thumbnail(v)
        for v in videos
    ])

    # 3. Create the final package
    return await create_package(videos, thumbnails)

await encode_episode(input_files)
";

/// Notes that a call ran, pretends to work, and gives its positional arguments.
async fn work<A: serde::de::DeserializeOwned>(call: &CallRequest) -> Result<A, FunctionError> {
    if let Some(path) = std::env::args().nth(2) {
        let mut log = OpenOptions::new().create(true).append(true).open(path)?;
        writeln!(log, "{}", call.idempotency_key())?;
    }
    tokio::time::sleep(Duration::from_millis(3)).await;
    Ok(serde_json::from_str(call.args.as_str())?)
}

async fn encode_video(call: CallRequest) -> Result<String, FunctionError> {
    let (file,): (String,) = work(&call).await?;
    Ok(format!("encoded_{file}"))
}

async fn generate_thumbnail(call: CallRequest) -> Result<String, FunctionError> {
    let (video,): (String,) = work(&call).await?;
    Ok(format!("thumb_{video}"))
}

async fn create_package(call: CallRequest) -> Result<String, FunctionError> {
    let (videos, thumbnails): (Vec<String>, Vec<String>) = work(&call).await?;
    Ok(format!("package of {} and {}", videos.join(", "), thumbnails.join(", ")))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    durable::run_worker_if_asked();
    let url = std::env::args().nth(1).ok_or("usage: video DATABASE_URL [LOG_FILE]")?;
    let thread = std::env::var("ISOLATION").as_deref() == Ok("thread");
    let durable = Durable::builder(&url)
        .isolation(if thread { Isolation::Thread } else { Isolation::Process })
        .function_raw("encode_video", encode_video)
        .function_raw("generate_thumbnail", generate_thumbnail)
        .function_raw("create_package", create_package)
        .open()?;
    let workflow = Workflow::new(WORKFLOW)
        .input("input_files", ["ep1.mp4", "ep2.mp4", "ep3.mp4"])?
        // The same key names the same execution when the program is started again.
        .idempotency_key("episodes");
    let id = durable.start(&workflow)?;
    println!("{}", durable.result::<String>(id)?);
    Ok(())
}

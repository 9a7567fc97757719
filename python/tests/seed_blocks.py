"""Code blocks of the project's first documents, word for word."""

QUICK_START = '''
from durable_monty import init_db, OrchestratorService, Worker, register_function

# 1. Register functions
@register_function("encode_video")
def encode_video(filepath: str):
    # Your encoding logic
    return f"encoded_{filepath}"

# 2. Define workflow
code = """
from asyncio import gather
results = await gather(
    encode_video('a.mp4'),
    encode_video('b.mp4'),
    encode_video('c.mp4')
)
results
"""

# 3. Start execution
service = OrchestratorService(init_db())
exec_id = service.start_execution(code, ["encode_video"])

# 4. Run worker
from durable_monty import LocalExecutor

executor = LocalExecutor()
worker = Worker(service, executor)
worker.run()  # Processes scheduled executions, executes calls, resumes workflows
'''

SCHEDULE = '''
from durable_monty import init_db, OrchestratorService, register_function

@register_function("add")
def add(a, b):
    return a + b

code = """
from asyncio import gather
results = await gather(add(1, 2), add(3, 4))
sum(results)
"""

service = OrchestratorService(init_db("sqlite:///app.db"))
exec_id = service.start_execution(code, ["add"])
# Status: "scheduled" - saved to DB, no execution yet
'''

WORKER = """
from durable_monty import Worker

worker = Worker(service)
worker.run()

# Worker loop:
# 1. Pick up scheduled execution → start with Monty → create calls
# 2. Submit calls to executor → store job_id
# 3. Poll job results → update when complete
# 4. Resume workflow when all calls done
"""

LOCAL_EXECUTOR = """
from durable_monty import LocalExecutor

executor = LocalExecutor()
worker = Worker(service, executor)
worker.run()
"""

CUSTOM_EXECUTOR = """
from durable_monty.executor import Executor

class ModalExecutor(Executor):
    def submit_call(self, call):
        # Submit to Modal, store job_id
        ...

    def check_job(self, job_id):
        # Check job status, return result
        ...
"""

# Of the real-world example: all but its last two lines, which need a queue.
VIDEO = '''
from durable_monty import init_db, OrchestratorService, Worker, register_function

@register_function("encode_video")
def encode_video(filepath: str, quality: str):
    # Actual encoding - takes hours!
    ...
    return encoded_path

@register_function("generate_thumbnail")
def generate_thumbnail(video_path: str):
    ...
    return thumbnail_path

@register_function("create_package")
def create_package(videos: list, thumbnails: list):
    ...
    return package_url

code = """
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

# Start execution
service = OrchestratorService(init_db())
exec_id = service.start_execution(
    code,
    ["encode_video", "generate_thumbnail", "create_package"],
    inputs={"input_files": ["ep1.mp4", "ep2.mp4", "ep3.mp4"]}
)
'''

API = """
from durable_monty import init_db, OrchestratorService

engine = init_db("sqlite:///app.db")  # or postgresql://...
service = OrchestratorService(engine)

# Schedule execution
exec_id = service.start_execution(
    code="await add(1, 2)",
    external_functions=["add"],
    inputs=None  # or {"var": value}
)

# Poll specific execution
result = service.poll(exec_id)
# Returns: {"execution_id": str, "status": str, "output": Any, "pending_calls": list}

# Poll all executions
results = service.poll()
# Returns: list of above dicts

# Get pending calls
calls = service.get_pending_calls(exec_id)
"""

COMPLETE = """
# Complete a call
service.complete_call(exec_id, call_id, result)
"""

REGISTER = """
from durable_monty import register_function

@register_function("my_function")
def my_function(arg1, arg2):
    return result

# Or directly
from durable_monty import FUNCTION_REGISTRY
FUNCTION_REGISTRY["my_function"] = my_function
"""

REGISTRY_USE = """
@register_function('encode_video')
def encode_video(filepath: str, quality: str = '1080p'):
    # Actual encoding logic
    import time
    time.sleep(2)  # Simulate encoding
    return f"encoded_{filepath}"

@register_function('create_playlist')
def create_playlist(videos: list[str]):
    return {'playlist': videos, 'count': len(videos)}
"""

SIMPLE = '''
# examples/simple_parallel.py
from durable_monty import start_execution, init_db
from durable_monty.functions import register_function
from sqlalchemy.orm import Session

# Register functions
@register_function('add')
def add(a, b):
    return a + b

@register_function('multiply')
def multiply(a, b):
    return a * b

# Code to execute
code = """
from asyncio import gather

async def workflow():
    results = await gather(
        add(1, 2),
        add(3, 4),
        multiply(5, 6)
    )
    return sum(results)

await workflow()
"""

# Initialize DB
engine = init_db('sqlite:///example.db')

# Start execution
with Session(engine) as session:
    execution_id = start_execution(
        session=session,
        code=code,
        inputs={},
        external_functions=['add', 'multiply']
    )

print(f"Started execution: {execution_id}")
# Now RQ workers will execute the tasks
# When all complete, execution will resume automatically
'''

APPLICATION = """
from durable_monty import start_execution, init_db
from sqlalchemy.orm import Session

engine = init_db('sqlite:///app.db')

with Session(engine) as session:
    execution_id = start_execution(
        session=session,
        code=my_workflow_code,
        inputs={'video_files': ['a.mp4', 'b.mp4']},
        external_functions=['encode_video', 'create_playlist']
    )
"""

QUERY = """
from durable_monty.models import Execution

with Session(engine) as session:
    execution = session.query(Execution).filter_by(id=execution_id).first()
    print(f"Status: {execution.status}")
    if execution.status == 'completed':
        print(f"Output: {from_json(execution.output)}")
"""

# The integration test, cut where it says "manually trigger resume".
TEST_BEGIN = '''
import pytest
from durable_monty import start_execution, init_db
from durable_monty.functions import register_function

@register_function('test_add')
def test_add(a, b):
    return a + b

code = """
from asyncio import gather
results = await gather(test_add(1, 2), test_add(3, 4))
sum(results)
"""

engine = init_db('sqlite:///:memory:')
session = Session(engine)

execution_id = start_execution(
    session, code, {}, ['test_add']
)
'''

TEST_END = """
execution = session.query(Execution).filter_by(id=execution_id).first()
assert execution.status == 'completed'
assert from_json(execution.output) == 10
"""

EXECUTE_AND_SAVE = '''
def execute_and_save(execution_id, resume_group_id, call_id, function_name, args):
    """
    Wrapper that:
    1. Executes the actual function
    2. Saves result to DB
    3. Checks if resume group is complete
    4. Triggers resume if ready
    """
    try:
        # Execute actual function
        func = FUNCTION_REGISTRY[function_name]
        result = func(*args)

        # Save result
        with Session(engine) as session:
            call = session.query(Call).filter_by(
                execution_id=execution_id,
                call_id=call_id
            ).first()
            call.status = 'completed'
            call.result = to_json(result)
            call.completed_at = datetime.utcnow()
            session.commit()

        # Check if we should resume
        check_and_resume_if_ready(execution_id, resume_group_id)

    except Exception as e:
        # Save error
        with Session(engine) as session:
            call = session.query(Call).filter_by(
                execution_id=execution_id,
                call_id=call_id
            ).first()
            call.status = 'failed'
            call.error = str(e)
            call.completed_at = datetime.utcnow()
            session.commit()
'''

CHECK_AND_RESUME = """
def check_and_resume_if_ready(execution_id, resume_group_id):
    with Session(engine) as session:
        # Count calls
        from sqlalchemy import func
        result = session.query(
            func.count(Call.id).label('total'),
            func.count(Call.id).filter(Call.status == 'completed').label('completed'),
            func.count(Call.id).filter(Call.status == 'failed').label('failed')
        ).filter(
            Call.resume_group_id == resume_group_id
        ).first()

        total = result.total
        completed = result.completed
        failed = result.failed

        # All done?
        if total == completed + failed:
            if failed > 0:
                # Mark execution as failed
                execution = session.query(Execution).filter_by(id=execution_id).first()
                execution.status = 'failed'
                session.commit()
                return

            # All completed - check if we should resume
            execution = session.query(Execution).filter_by(id=execution_id).first()
            if execution.status == 'waiting':
                # Prevent double-resume
                execution.status = 'resuming'
                session.commit()

                # Resume (outside transaction)
                resume_execution(session, execution_id, resume_group_id)
"""

LAMBDA_HANDLER = """
def handler(event, context):
    from durable_monty.functions import execute_function

    # Just execute and return - no DB access needed!
    result = execute_function(
        event["function_name"],
        event["args"]
    )

    return {"result": result}
"""

# Execution engines

LOCAL_ENGINE = """
from durable_monty import Worker, LocalExecutor

executor = LocalExecutor()
worker = Worker(service, executor=executor)
worker.run()
"""

RQ_ENGINE = """
from durable_monty import Worker, RQExecutor

executor = RQExecutor(queue_name="my-queue")
worker = Worker(service, executor=executor)
worker.run()
"""

RQ_EXECUTOR = """
from durable_monty.executors.rq import RQExecutor

executor = RQExecutor(queue_name="my-queue")
worker = Worker(service, executor)
worker.run()

# Start RQ workers: rq worker my-queue
"""

EXECUTOR_KINDS = """
from durable_monty import Worker, LocalExecutor
from durable_monty.executors.rq import RQExecutor

# Local execution
executor = LocalExecutor()
worker = Worker(service, executor)

# RQ execution
executor = RQExecutor()
worker = Worker(service, executor)

# Custom executor
executor = MyExecutor()
worker = Worker(service, executor, poll_interval=1.0)

# Run worker loop
worker.run()  # Blocks - processes everything
"""

MODAL_ENGINE = '''
from durable_monty.executor import Executor
from durable_monty.models import Call, from_json
import modal

class ModalExecutor(Executor):
    """Execute functions on Modal.com"""

    def __init__(self):
        self.app = modal.App("durable-monty")
        self.stats = {"submitted": 0}

    def submit_call(self, call: Call) -> None:
        """Submit call to Modal."""
        args = from_json(call.args)

        # Create Modal function
        @self.app.function()
        def run_function():
            from durable_monty import init_db, OrchestratorService
            from durable_monty.functions import execute_function

            result = execute_function(call.function_name, args)

            # Save result
            service = OrchestratorService(init_db())
            service.complete_call(call.execution_id, call.call_id, result)

            return result

        # Submit to Modal
        run_function.remote()
        self.stats["submitted"] += 1

    def get_stats(self) -> dict:
        return self.stats
'''

LAMBDA_ENGINE = '''
import boto3
from durable_monty.executor import Executor
from durable_monty.models import Call, from_json, to_json

class LambdaExecutor(Executor):
    """Execute functions on AWS Lambda"""

    def __init__(self, function_name: str):
        self.lambda_client = boto3.client('lambda')
        self.function_name = function_name
        self.stats = {"invoked": 0}

    def submit_call(self, call: Call) -> None:
        """Submit call to Lambda."""
        payload = {
            "execution_id": call.execution_id,
            "call_id": call.call_id,
            "function_name": call.function_name,
            "args": from_json(call.args),
        }

        # Invoke Lambda asynchronously
        self.lambda_client.invoke(
            FunctionName=self.function_name,
            InvocationType='Event',  # Async
            Payload=to_json(payload),
        )

        self.stats["invoked"] += 1

    def get_stats(self) -> dict:
        return self.stats
'''

EXECUTOR_USAGE = """
from durable_monty import init_db, OrchestratorService, Worker
from my_executors import ModalExecutor

# Setup
engine = init_db()
service = OrchestratorService(engine)
executor = ModalExecutor()

# Run worker with custom executor
worker = Worker(service, executor=executor)
worker.run()
"""

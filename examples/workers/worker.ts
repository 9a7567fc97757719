// A worker in TypeScript; it needs Node and nothing else.
//
//   node --experimental-strip-types examples/workers/worker.ts     # Node 22.6 or newer
//   npx tsx examples/workers/worker.ts                             # older
//
// DURABLE_URL is the server; DURABLE_TOKEN is an access token of role worker, where it wants one.

const server = process.env.DURABLE_URL ?? "http://127.0.0.1:8080";
const functions: Record<string, (...args: any[]) => Promise<unknown>> = {
  add: async (a: number, b: number) => a + b,
  greet: async (name: string) => `Hello, ${name}!`,
};

interface Task { id: string; function: string; args: unknown[]; lease_ms: number }

let stopping = false;
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => (stopping = true));

async function post(path: string, body: object) {
  const headers: Record<string, string> = { "Content-Type": "application/json" };
  if (process.env.DURABLE_TOKEN) headers["Authorization"] = `Bearer ${process.env.DURABLE_TOKEN}`;
  const answer = await fetch(server + path, { method: "POST", headers, body: JSON.stringify(body) });
  return { status: answer.status, body: (await answer.json()) as any };
}

async function run(task: Task) {
  // 409: nobody waits for this task any more, and whatever it comes to is refused.
  const beat = setInterval(() => post(`/tasks/${task.id}/heartbeat`, {}).catch(() => {}),
    task.lease_ms / 3);
  try {
    const result = await functions[task.function](...task.args);
    await post(`/tasks/${task.id}/complete`, { result: result ?? null });
    console.log(`${task.function} done`);
  } catch (error) {
    await post(`/tasks/${task.id}/fail`, { type: "RuntimeError", message: String(error) });
    console.log(`${task.function} failed: ${error}`);
  } finally {
    clearInterval(beat);
  }
}

const claim = { functions: Object.keys(functions), worker: `node-${process.pid}`, max: 8 };
async function main() {
  while (!stopping) {
    try {
      const { status, body } = await post("/tasks/claim", { ...claim, wait_ms: 2000 });
      if (status !== 200) throw new Error(body.detail);
      await Promise.all(body.items.map(run));
    } catch (error) {
      console.error(String(error));
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

main();

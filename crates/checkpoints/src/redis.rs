//! Checkpoints in Redis: a hash of them for every execution, and a hash with its lease.
//!
//! What was acknowledged is as durable as the server makes it: with `appendfsync always` it
//! survives a power loss, otherwise the last second may be lost.

use std::time::Duration;

use durable_core::{Error, Lease, Owner, Result};
use parking_lot::Mutex;
use redis::{Client, Connection, FromRedisValue, Script, ScriptInvocation};

use crate::{
    Ask, CheckpointId, ExecutionName, Provider,
    checkpoints::{is_held, is_lost},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// Milliseconds of the server's clock.
const CLOCK: &str = "
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)\n";

const ACQUIRE: &str = "
    local lease = redis.call('HMGET', KEYS[1], 'owner', 'epoch', 'expires_at_ms')
    local owner = lease[1] or ''
    if owner ~= '' and owner ~= ARGV[1] and owner ~= ARGV[3]
        and tonumber(lease[3] or '0') > now then
      return 0
    end
    local epoch = tonumber(lease[2] or '0') + 1
    redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'epoch', epoch,
               'expires_at_ms', string.format('%.0f', now + ARGV[2]))
    return epoch";

/// Nothing but 0 when the lease is not held.
const HELD: &str = "
    local lease = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
    if lease[1] ~= ARGV[1] or lease[2] ~= ARGV[2] then
      return 0
    end\n";

const RENEW: &str = "
    redis.call('HSET', KEYS[1], 'expires_at_ms', string.format('%.0f', now + ARGV[3]))
    return 1";

const RELEASE: &str = "
    redis.call('HSET', KEYS[1], 'owner', '')
    return 1";

const SAVE: &str = "
    redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
    return 1";

/// Checkpoints in Redis, shared by any number of machines. The clock of leases is the server's.
pub struct RedisProvider {
    client: Client,
    connection: Mutex<Option<Connection>>,
    scripts: Scripts,
}

struct Scripts {
    acquire: Script,
    renew: Script,
    release: Script,
    save: Script,
}

impl RedisProvider {
    /// Connects to `redis://` or `rediss://user:password@host:port/database`.
    ///
    /// # Errors
    /// `Invalid` for a URL that names no server; `Unavailable` when it can't be reached.
    pub fn open(url: &str) -> Result<Self> {
        let client = Client::open(url).map_err(|_| {
            // What stands in it may be a password.
            Error::invalid("expected redis://user:password@host:port/database, or rediss://")
        })?;
        let scripts = Scripts {
            acquire: Script::new(&[CLOCK, ACQUIRE].concat()),
            renew: Script::new(&[CLOCK, HELD, RENEW].concat()),
            release: Script::new(&[HELD, RELEASE].concat()),
            save: Script::new(&[HELD, SAVE].concat()),
        };
        let provider = Self { client, connection: Mutex::new(None), scripts };
        provider.run(|connection| redis::cmd("PING").query::<String>(connection))?;
        Ok(provider)
    }

    fn connect(&self) -> redis::RedisResult<Connection> {
        let connection = self.client.get_connection_with_timeout(PATIENCE)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.set_write_timeout(Some(PATIENCE))?;
        Ok(connection)
    }

    /// Asks on the connection that is kept; once more on a new one when that has idled away.
    /// Everything here may be done twice.
    fn run<T>(&self, ask: impl Fn(&mut Connection) -> redis::RedisResult<T>) -> Result<T> {
        let mut kept = self.connection.lock();
        if let Some(mut connection) = kept.take() {
            match ask(&mut connection) {
                Err(error) if error.is_unrecoverable_error() || error.is_io_error() => {}
                answer => {
                    *kept = Some(connection);
                    return answer.map_err(|error| failed(&error));
                }
            }
        }
        let mut connection = self.connect().map_err(|error| failed(&error))?;
        let answer = ask(&mut connection).map_err(|error| failed(&error))?;
        *kept = Some(connection);
        Ok(answer)
    }

    fn invoke<T: FromRedisValue>(&self, invocation: &ScriptInvocation<'_>) -> Result<T> {
        self.run(|connection| invocation.invoke(connection))
    }
}

impl Provider for RedisProvider {
    fn acquire(&self, ask: &Ask<'_>) -> Result<u64> {
        let mut invocation = self.scripts.acquire.key(lease_key(ask.execution));
        invocation
            .arg(ask.owner.as_str())
            .arg(ms(ask.duration))
            .arg(ask.gone.map_or("", Owner::as_str));
        match self.invoke(&invocation)? {
            0 => {
                let holder = self.holder(ask.execution)?;
                Err(is_held(ask.execution, holder.as_ref().map_or("somebody else", Owner::as_str)))
            }
            epoch => Ok(epoch),
        }
    }

    fn renew(&self, execution: &ExecutionName, lease: &Lease, duration: Duration) -> Result<()> {
        let mut invocation = self.scripts.renew.key(lease_key(execution));
        invocation.arg(lease.owner.as_str()).arg(lease.epoch).arg(ms(duration));
        if self.invoke(&invocation)? { Ok(()) } else { Err(is_lost(execution)) }
    }

    fn release(&self, execution: &ExecutionName, lease: &Lease) -> Result<()> {
        let mut invocation = self.scripts.release.key(lease_key(execution));
        invocation.arg(lease.owner.as_str()).arg(lease.epoch);
        self.invoke::<bool>(&invocation).map(drop)
    }

    fn holder(&self, execution: &ExecutionName) -> Result<Option<Owner>> {
        let key = lease_key(execution);
        let owner: Option<String> =
            self.run(|connection| redis::cmd("HGET").arg(&key).arg("owner").query(connection))?;
        Ok(owner.filter(|owner| !owner.is_empty()).map(|owner| Owner::new(&owner)))
    }

    fn save(&self, id: &CheckpointId, lease: &Lease, stored: &[u8]) -> Result<()> {
        let mut invocation = self.scripts.save.key(lease_key(&id.execution));
        invocation
            .key(data_key(&id.execution))
            .arg(lease.owner.as_str())
            .arg(lease.epoch)
            .arg(id.number)
            .arg(stored);
        if self.invoke(&invocation)? { Ok(()) } else { Err(is_lost(&id.execution)) }
    }

    fn load(&self, id: &CheckpointId) -> Result<Option<Vec<u8>>> {
        let key = data_key(&id.execution);
        self.run(|connection| redis::cmd("HGET").arg(&key).arg(id.number).query(connection))
    }

    fn list(&self, execution: &ExecutionName) -> Result<Vec<u64>> {
        let key = data_key(execution);
        let mut numbers: Vec<u64> =
            self.run(|connection| redis::cmd("HKEYS").arg(&key).query(connection))?;
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn delete(&self, id: &CheckpointId) -> Result<bool> {
        let key = data_key(&id.execution);
        self.run(|connection| redis::cmd("HDEL").arg(&key).arg(id.number).query(connection))
    }

    fn place(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }
}

/// Both keys of an execution lie in one slot of a cluster.
fn lease_key(execution: &ExecutionName) -> String {
    format!("durable:checkpoints:{{{execution}}}:lease")
}

fn data_key(execution: &ExecutionName) -> String {
    format!("durable:checkpoints:{{{execution}}}:data")
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(1 << 40)
}

fn failed(error: &redis::RedisError) -> Error {
    Error::unavailable(format!("Redis: {error}"))
}

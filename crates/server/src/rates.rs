//! How many requests a client may make.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Instant,
};

use parking_lot::Mutex;

use crate::{Kind, Problem};

/// Most clients that are remembered.
const MAX_CLIENTS: usize = 10_000;

/// Whom a request is counted for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// The bearer of a token that is worth something.
    Token(String),
    /// A machine; for IPv6 its network, of which one client has as many addresses as it wants.
    Machine(IpAddr),
    /// Nobody knows.
    Unknown,
}

impl Client {
    pub(crate) fn of(peer: Option<IpAddr>) -> Self {
        match peer.map(|peer| peer.to_canonical()) {
            Some(IpAddr::V6(address)) => {
                let network = u128::from(address) >> 64 << 64;
                Self::Machine(Ipv6Addr::from(network).into())
            }
            Some(address) => Self::Machine(address),
            None => Self::Unknown,
        }
    }
}

/// A token bucket for each client.
pub(crate) struct Rates {
    per_s: f64,
    burst: f64,
    buckets: Mutex<HashMap<Client, Bucket>>,
}

struct Bucket {
    left: f64,
    at: Instant,
}

impl Rates {
    pub(crate) fn new(per_s: u32, burst: u32) -> Self {
        let (per_s, burst) = (f64::from(per_s.max(1)), f64::from(burst.max(1)));
        Self { per_s, burst, buckets: Mutex::default() }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// `RateLimited` with the time after which there is room for one more.
    pub(crate) fn count(&self, client: Client, now: Instant) -> Result<(), Problem> {
        let mut buckets = self.buckets.lock();
        if buckets.len() >= MAX_CLIENTS && !buckets.contains_key(&client) {
            self.forget_idle(&mut buckets, now);
        }
        let bucket = buckets.entry(client).or_insert(Bucket { left: self.burst, at: now });
        bucket.left = self.left(bucket, now);
        bucket.at = now;
        if bucket.left < 1.0 {
            let wait_s = ((1.0 - bucket.left) / self.per_s).ceil().max(1.0);
            return Err(Problem::new(Kind::RateLimited, "too many requests: slow down")
                .retry_after(wait_s as u64));
        }
        bucket.left -= 1.0;
        Ok(())
    }

    fn left(&self, bucket: &Bucket, now: Instant) -> f64 {
        let since_s = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.left + since_s * self.per_s).min(self.burst)
    }

    /// A client whose bucket is full again is as good as a new one. When nobody's is, the busiest
    /// half stays.
    fn forget_idle(&self, buckets: &mut HashMap<Client, Bucket>, now: Instant) {
        buckets.retain(|_, bucket| self.left(bucket, now) < self.burst);
        if buckets.len() >= MAX_CLIENTS {
            let mut lefts: Vec<_> = buckets.values().map(|bucket| bucket.left).collect();
            lefts.sort_unstable_by(f64::total_cmp);
            let median = lefts[lefts.len() / 2];
            buckets.retain(|_, bucket| bucket.left < median);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_client_has_its_own_bucket_and_it_fills_again() {
        let rates = Rates::new(10, 3);
        let now = Instant::now();
        let one = Client::Token("a".into());
        for _ in 0..3 {
            rates.count(one.clone(), now).unwrap();
        }
        let refused = rates.count(one.clone(), now).unwrap_err();
        assert_eq!(refused.kind(), Kind::RateLimited);
        rates.count(Client::Unknown, now).unwrap();
        rates.count(one, now + Duration::from_millis(101)).unwrap();
    }

    #[test]
    fn the_number_of_clients_is_bounded() {
        let rates = Rates::new(1, 5);
        let now = Instant::now();
        for number in 0..3 * MAX_CLIENTS {
            rates.count(Client::Token(number.to_string()), now).unwrap();
        }
        assert!(rates.buckets.lock().len() <= MAX_CLIENTS);
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let client = |text: &str| Client::of(Some(text.parse().unwrap()));
        assert_eq!(client("2001:db8::1"), client("2001:db8::2"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_eq!(client("::ffff:10.0.0.1"), client("10.0.0.1"));
    }
}

//! The protocol of the events guest: a sequence number each way, told by nothing but which channel an event comes on.
//!
//! Token `s` travels on channel `s % 16` and is answered on the same channel. At most `window` tokens (at most 8) are on
//! the way, so an event on a channel can mean one token only. From this follows what is checked:
//!
//! - nothing lost: every token is answered within the time limit;
//! - nothing doubled, nothing strayed: an answer without its token, or a token outside the window, is an error.

use core::fmt;

/// Channels between the two domains.
pub const CHANNELS: usize = 16;
/// Most tokens on the way. Half of the channels, so that a doubled token is told from the next one.
pub const MAX_WINDOW: u64 = 8;

/// The protocol is broken: an event was lost, doubled, or came on a wrong channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// An event on a channel that none was expected on.
    Unexpected {
        /// Where it came.
        channel: usize,
        /// The oldest token that is not accounted for.
        sequence: u64,
    },
    /// No answer in time.
    Lost {
        /// The token.
        sequence: u64,
        /// How long ago it was sent, ns.
        waited: u64,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Unexpected { channel, sequence } => {
                write!(f, "event on channel {channel} that none was due on (oldest open token {sequence})")
            }
            Violation::Lost { sequence, waited } => {
                write!(f, "token {sequence} not answered after {} ms", waited / 1_000_000)
            }
        }
    }
}

/// The side that sends tokens.
pub struct Sender {
    window: u64,
    next: u64,
    oldest: u64,
    sent_at: [Option<u64>; CHANNELS],
    answers: u64,
}

impl Sender {
    /// Starts with token 0. The window is cut to `1..=MAX_WINDOW`.
    pub fn new(window: u64) -> Self {
        Sender { window: window.clamp(1, MAX_WINDOW), next: 0, oldest: 0, sent_at: [None; CHANNELS], answers: 0 }
    }

    /// The channel for the next token, if one may be sent now; it counts as sent.
    pub fn send(&mut self, now: u64) -> Option<usize> {
        if self.next - self.oldest >= self.window {
            return None;
        }
        let channel = channel_of(self.next);
        self.sent_at[channel] = Some(now);
        self.next += 1;
        Some(channel)
    }

    /// An event came in on a channel.
    pub fn answered(&mut self, channel: usize) -> Result<(), Violation> {
        if self.sent_at[channel].take().is_none() {
            return Err(Violation::Unexpected { channel, sequence: self.oldest });
        }
        self.answers += 1;
        while self.oldest < self.next && self.sent_at[channel_of(self.oldest)].is_none() {
            self.oldest += 1;
        }
        Ok(())
    }

    /// Whether some token waits for longer than `limit` ns.
    pub fn check(&self, now: u64, limit: u64) -> Result<(), Violation> {
        for sequence in self.oldest..self.next {
            if let Some(sent) = self.sent_at[channel_of(sequence)] {
                let waited = now.saturating_sub(sent);
                if waited > limit {
                    return Err(Violation::Lost { sequence, waited });
                }
            }
        }
        Ok(())
    }

    /// Tokens sent.
    pub fn sent(&self) -> u64 {
        self.next
    }

    /// Answers received.
    pub fn answers(&self) -> u64 {
        self.answers
    }
}

/// The side that answers.
pub struct Answerer {
    window: u64,
    next: u64,
    has_come: [bool; CHANNELS],
    tokens: u64,
}

impl Answerer {
    /// Expects token 0. The window must be the sender's, or larger.
    pub fn new(window: u64) -> Self {
        Answerer { window: window.clamp(1, MAX_WINDOW), next: 0, has_come: [false; CHANNELS], tokens: 0 }
    }

    /// A token came in on a channel; it is to be answered there.
    pub fn arrived(&mut self, channel: usize) -> Result<(), Violation> {
        let ahead = (channel + CHANNELS - channel_of(self.next)) % CHANNELS;
        if ahead as u64 >= self.window || self.has_come[channel] {
            return Err(Violation::Unexpected { channel, sequence: self.next });
        }
        self.has_come[channel] = true;
        self.tokens += 1;
        while core::mem::take(&mut self.has_come[channel_of(self.next)]) {
            self.next += 1;
        }
        Ok(())
    }

    /// Tokens received.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }
}

fn channel_of(sequence: u64) -> usize {
    (sequence % CHANNELS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn any_order_within_the_window_is_fine() {
        let (mut sender, mut answerer) = (Sender::new(4), Answerer::new(4));
        let mut on_the_way: Vec<usize> = Vec::new();
        for round in 0u64..1000 {
            while let Some(channel) = sender.send(round) {
                on_the_way.push(channel);
            }
            assert!(on_the_way.len() <= 4);
            // Not in order: which one is served changes from round to round.
            let channel = on_the_way.remove(round as usize * 7 % on_the_way.len());
            answerer.arrived(channel).unwrap();
            sender.answered(channel).unwrap();
        }
        assert_eq!(sender.answers(), 1000);
        assert_eq!(answerer.tokens(), 1000);
        assert_eq!(sender.sent() - sender.answers(), on_the_way.len() as u64);
    }

    #[test]
    fn a_lost_token_is_noticed_when_its_time_is_over() {
        let mut sender = Sender::new(2);
        assert_eq!(sender.send(100), Some(0));
        assert_eq!(sender.send(200), Some(1));
        assert_eq!(sender.send(300), None);
        sender.answered(1).unwrap();
        assert_eq!(sender.check(1100, 1000), Ok(()));
        assert_eq!(sender.check(1101, 1000), Err(Violation::Lost { sequence: 0, waited: 1001 }));
    }

    #[test]
    fn doubled_and_stray_events_are_noticed() {
        let mut sender = Sender::new(4);
        sender.send(0);
        sender.answered(0).unwrap();
        assert_eq!(sender.answered(0), Err(Violation::Unexpected { channel: 0, sequence: 1 }));

        for window in 1..=MAX_WINDOW {
            let mut answerer = Answerer::new(window);
            answerer.arrived(0).unwrap();
            assert!(answerer.arrived(0).is_err(), "doubled");
            let mut answerer = Answerer::new(window);
            assert!(answerer.arrived(window as usize).is_err(), "skipped");
        }
        let mut answerer = Answerer::new(4);
        answerer.arrived(2).unwrap();
        assert!(answerer.arrived(2).is_err(), "doubled out of order");
    }
}

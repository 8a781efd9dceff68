//! How the API server stands to this node, as a look needs it: since when without a break, and when it answered last.

use crate::checkpoint::look::{Answers, ApiServer};
use crate::source::api::reach::Reach;
use crate::source::api::sighting::Sighting;

/// Which feed, and which time of answering of it: what a listing that became durable belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Episode {
    /// Feeds count from one.
    pub feed: u64,
    /// [`Sighting::episode`].
    pub answering: u64,
}

/// What is remembered of the API server between looks. Times are milliseconds since boot.
#[derive(Clone, Debug)]
pub(super) struct View {
    reach: Answers,
    since_ms: u64,
    routed_since_ms: Option<u64>,
    sign_ms: Option<u64>,
    /// Of which feed, and how many.
    signs: (u64, u64),
    last_answer_ms: Option<u64>,
    episode: Episode,
}

impl View {
    /// Nobody was asked yet, at `now_ms`. `last_answer_ms` is what an earlier process of this boot knew.
    #[must_use]
    pub(super) fn new(now_ms: u64, last_answer_ms: Option<u64>) -> Self {
        let episode = Episode::default();
        Self {
            reach: Answers::Silent,
            since_ms: now_ms,
            routed_since_ms: None,
            sign_ms: None,
            signs: (0, 0),
            last_answer_ms,
            episode,
        }
    }

    /// Whether it answers now.
    #[must_use]
    pub(super) fn is_answering(&self) -> bool {
        self.reach == Answers::Answering
    }

    /// Takes in what the feed of number `feed` sights at `now_ms`, and gives what a look needs. `durable` is the episode
    /// whose listing is durable; `yielding`: whether there is a copy to which a sign of life matters. One that a server gives
    /// while it goes down uses up nothing.
    ///
    /// Between two feeds, with none, it counts as it stood: nobody asks then.
    pub(super) fn look(
        &mut self,
        now_ms: u64,
        feed: u64,
        sighting: Option<&Sighting>,
        durable: Episode,
        yielding: bool,
    ) -> ApiServer {
        let mut sighted = Default::default();
        if let Some(sighting) = sighting
            && let Some(reach) = &sighting.reach
        {
            let now = match reach {
                Reach::Answering => Answers::Answering,
                Reach::Silent(_) => Answers::Silent,
                Reach::Refusing(_) => Answers::Refusing,
            };
            let episode = Episode { feed, answering: sighting.episode };
            // It may have answered in between, unseen by looks.
            let answered = episode != self.episode && sighting.episode > 0;
            if answered || self.reach == Answers::Answering || now == Answers::Answering {
                self.last_answer_ms = Some(now_ms);
            }
            if answered || now != self.reach {
                self.since_ms = now_ms;
                self.routed_since_ms = None;
            }
            if now == Answers::Silent && sighting.routed {
                self.routed_since_ms.get_or_insert(now_ms);
            }
            // The first of an outage, which only an answer ends.
            let signs = (feed, sighting.signs);
            if answered || now == Answers::Answering {
                self.sign_ms = None;
            } else if yielding && now == Answers::Silent && signs != self.signs && sighting.signs > 0 {
                self.sign_ms.get_or_insert(now_ms);
            }
            self.signs = signs;
            (self.reach, self.episode) = (now, episode);
            if now == Answers::Answering {
                sighted = (*sighting.pods).clone();
            }
        }
        ApiServer {
            reach: self.reach,
            since_ms: self.since_ms,
            routed_since_ms: self.routed_since_ms,
            sign_ms: self.sign_ms,
            last_answer_ms: self.last_answer_ms,
            sighted,
            in_step: self.reach == Answers::Answering && durable == self.episode,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::api::reach::Cause;

    fn sighting(reach: Reach, routed: bool, episode: u64) -> Sighting {
        Sighting { reach: Some(reach), routed, episode, ..Sighting::default() }
    }

    #[test]
    fn silence_counts_from_its_beginning_and_each_answer_ends_it() {
        let silent = || Reach::Silent(Cause("away".to_owned()));
        let refusing = || Reach::Refusing(Cause("403".to_owned()));
        let mut view = View::new(100, None);
        let none = Episode::default();
        #[rustfmt::skip]
        let rows = [
            // now, feed, sighting,                                  durable of,  reach,              since, routed,     last answer, in step
            (  200, 0,    None,                                      0,           Answers::Silent,    100,   None,       None,        false),
            (  300, 1,    Some(sighting(silent(), false, 0)),        0,           Answers::Silent,    100,   None,       None,        false),
            (  400, 1,    Some(sighting(silent(), true, 0)),         0,           Answers::Silent,    100,   Some(400),  None,        false),
            (  500, 1,    Some(sighting(silent(), true, 0)),         0,           Answers::Silent,    100,   Some(400),  None,        false),
            (  600, 1,    Some(sighting(Reach::Answering, true, 1)), 0,           Answers::Answering, 600,   None,       Some(600),   false),
            (  700, 1,    Some(sighting(Reach::Answering, true, 1)), 1,           Answers::Answering, 600,   None,       Some(700),   true),
            (  800, 1,    Some(sighting(silent(), true, 1)),         1,           Answers::Silent,    800,   Some(800),  Some(800),   false),
            (  900, 1,    Some(sighting(silent(), true, 1)),         1,           Answers::Silent,    800,   Some(800),  Some(800),   false),
            // It answered between two looks.
            ( 1000, 1,    Some(sighting(silent(), true, 2)),         1,           Answers::Silent,    1000,  Some(1000), Some(1000),  false),
            ( 1100, 1,    Some(sighting(refusing(), true, 2)),       1,           Answers::Refusing,  1100,  None,       Some(1000),  false),
            ( 1200, 1,    None,                                      1,           Answers::Refusing,  1100,  None,       Some(1000),  false),
            // A listing of an earlier time of answering says nothing of this one.
            ( 1300, 1,    Some(sighting(Reach::Answering, true, 3)), 2,           Answers::Answering, 1300,  None,       Some(1300),  false),
            ( 1400, 1,    Some(sighting(Reach::Answering, true, 3)), 3,           Answers::Answering, 1300,  None,       Some(1400),  true),
        ];
        for (now, feed, sighting, durable, reach, since_ms, routed_since_ms, last_answer_ms, in_step) in rows {
            let durable = if durable == 0 { none } else { Episode { feed: 1, answering: durable } };
            let found = view.look(now, feed, sighting.as_ref(), durable, true);
            let want = ApiServer {
                reach,
                since_ms,
                routed_since_ms,
                sign_ms: None,
                last_answer_ms,
                sighted: Default::default(),
                in_step,
            };
            assert_eq!(found, want, "at {now}");
        }
    }

    #[test]
    fn only_the_first_sign_of_an_outage_counts() {
        let silent = || Reach::Silent(Cause("away".to_owned()));
        let refusing = || Reach::Refusing(Cause("403".to_owned()));
        let mut view = View::new(0, None);
        #[rustfmt::skip]
        let rows = [
            // now, feed, reach,           episode, signs, yields, since
            ( 100, 1,    silent(),         0,       0,     true,   None),
            // It goes down, and nothing is in anybody's way yet.
            ( 150, 1,    silent(),         0,       1,     false,  None),
            ( 160, 1,    silent(),         0,       1,     true,   None),
            ( 200, 1,    silent(),         0,       2,     true,   Some(200)),
            ( 300, 1,    silent(),         0,       2,     true,   Some(200)),
            ( 400, 1,    silent(),         0,       7,     true,   Some(200)),
            ( 450, 1,    silent(),         0,       8,     false,  Some(200)),
            // A refusal is no answer, and neither are other credentials.
            ( 500, 1,    refusing(),       0,       8,     true,   Some(200)),
            ( 600, 1,    silent(),         0,       9,     true,   Some(200)),
            ( 700, 2,    silent(),         0,       1,     true,   Some(200)),
            ( 800, 2,    Reach::Answering, 1,       1,     true,   None),
            ( 900, 2,    silent(),         1,       1,     true,   None),
            (1000, 2,    silent(),         1,       2,     true,   Some(1000)),
            // It answered between two looks; what was a sign before that is none now.
            (1100, 2,    silent(),         2,       3,     true,   None),
            (1200, 2,    silent(),         2,       3,     true,   None),
            (1300, 2,    silent(),         2,       4,     true,   Some(1300)),
            // Another feed counts anew.
            (1400, 3,    Reach::Answering, 1,       0,     true,   None),
            (1500, 3,    silent(),         1,       0,     true,   None),
            (1600, 4,    silent(),         0,       0,     true,   None),
            (1700, 4,    refusing(),       0,       1,     true,   None),
            (1800, 4,    silent(),         0,       1,     true,   None),
            (1900, 4,    silent(),         0,       2,     true,   Some(1900)),
        ];
        for (now, feed, reach, episode, signs, yielding, want) in rows {
            let sighting = Sighting { signs, ..sighting(reach, true, episode) };
            let found = view.look(now, feed, Some(&sighting), Episode::default(), yielding);
            assert_eq!(found.sign_ms, want, "at {now}");
        }
    }
}

//! What an agent does to its store in the first hours of a node, as batches of changes: it joins without a key, gets one,
//! lists, follows, starts copies and hands them over, and rotates its key.

use ckpt_db::checkpoint::lookup::Absence;
use ckpt_db::checkpoint::object::{Kind, Object, ObjectKey};
use ckpt_db::checkpoint::rendering::PodName;
use ckpt_db::store::{Change, Missing};
use store_format::Lifecycle;

use crate::common;
use crate::common::random::Random;

/// One commit of the workload.
#[derive(Clone)]
pub(crate) enum Step {
    Update(Vec<Change>),
    /// The n-th key of the node gets its slot.
    Key(usize),
    /// All slots but the newest of the node's keys go, never the one of the n-th key.
    OldSlots(usize),
    /// The file is made as short as it can be.
    Compact,
}

/// How many keys a workload uses.
pub(crate) const KEYS: usize = 3;

/// A workload over `pods` pods with `commits` random batches after the listing.
pub(crate) fn workload(seed: u64, pods: usize, commits: usize) -> Vec<Step> {
    let mut random = Random::new(seed);
    let listing = common::objects(pods);
    let mut steps = vec![
        Step::Update(vec![Change::Boot("boot-1".to_owned()), Change::Cluster { ca_sha256: vec![[3; 32]] }]),
        Step::Key(0),
        Step::Update(vec![
            Change::Reset { objects: listing.clone(), kinds: Kind::ALL.to_vec(), missing: Missing::Delete },
            Change::Position("100".to_owned()),
        ]),
    ];
    let all: Vec<Object> = listing.iter().filter(|object| object.key.kind() == Kind::Pod).cloned().collect();
    for round in 0..commits {
        if round % 25 == 24 {
            let key = 1 + (round / 25) % (KEYS - 1);
            steps.extend([Step::Key(key), Step::OldSlots(key)]);
        }
        if round % 12 == 11 {
            steps.push(Step::Compact);
        }
        let changes = 1 + if random.below(8) == 0 { random.below(12) } else { random.below(2) };
        steps.push(Step::Update((0..changes).map(|_| change(&mut random, &listing, &all, round)).collect()));
    }
    steps
}

fn change(random: &mut Random, listing: &[Object], pods: &[Object], round: usize) -> Change {
    let pod = &pods[random.below(pods.len())];
    let name = PodName { namespace: pod.key.namespace().to_owned(), name: pod.key.name().to_owned() };
    match random.below(10) {
        0..=2 => {
            let data: Vec<_> = listing.iter().filter(|object| object.key.kind() == Kind::Secret).collect();
            Change::Apply { object: grown(data[random.below(data.len())], random, round), with: Vec::new() }
        }
        3 => Change::Apply { object: grown(pod, random, round), with: needed(pod, listing) },
        4 => Change::Delete { key: pod.key.clone(), uid: String::new() },
        5 => Change::Apply { object: pod.clone(), with: needed(pod, listing) },
        6 => Change::Gone { key: pod.key.clone(), uid: String::new() },
        7 => Change::Hold { pod: name, held: random.below(2) == 0 },
        8 => {
            let key = ObjectKey::new(Kind::ConfigMap, pod.key.namespace(), "elsewhere").expect("a plain name");
            Change::Absent { key, why: Absence::NotFound }
        }
        _ => Change::Decided {
            pod: name,
            uid: pod.uid.clone(),
            lifecycle: [Lifecycle::Active, Lifecycle::Inactive, Lifecycle::HandedOver { left_s: round as u32 }]
                [random.below(3)],
            republished: 0,
            why: format!("round {round}"),
        },
    }
}

/// The object with another value in it, now and then a large one.
fn grown(object: &Object, random: &mut Random, round: usize) -> Object {
    let mut body: serde_json::Value = serde_json::from_slice(object.body.expose()).expect("the workload's own objects");
    let len = if random.below(10) == 0 { 20_000 } else { 1 + random.below(600) };
    body["metadata"]["annotations"]["round"] = format!("{round}:{}", "x".repeat(len)).into();
    Object { body: body.to_string().into(), ..object.clone() }
}

fn needed(pod: &Object, listing: &[Object]) -> Vec<Object> {
    let number = pod.key.name().trim_start_matches('p');
    let of_pod = |object: &&Object| {
        matches!(object.key.kind(), Kind::Secret | Kind::ConfigMap) && object.key.name()[1..] == *number
    };
    listing.iter().filter(of_pod).cloned().collect()
}

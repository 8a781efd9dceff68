//! Objects that are not to be had: between the words of the core and those of a pod's row.

use store_format::{Absence as Recorded, AbsentObject, PodRow};

use crate::checkpoint::lookup::Absence;
use crate::checkpoint::object::{Kind, ObjectKey};

/// The entry for `key` in the row of a pod that names it.
pub(super) fn entry(key: &ObjectKey, why: Absence) -> AbsentObject {
    let why = match why {
        Absence::NotFound => Recorded::NotFound,
        Absence::Forbidden => Recorded::Forbidden,
    };
    AbsentObject { kind: key.kind().row().name.to_owned(), name: key.name().to_owned(), why }
}

/// The entries of the row of a pod in `namespace`. One that names nothing that this version keeps is left out.
pub(super) fn entries(namespace: &str, row: &PodRow) -> impl Iterator<Item = (ObjectKey, Absence)> {
    row.absent.iter().filter_map(move |object| {
        let key = ObjectKey::new(Kind::from_name(&object.kind)?, namespace, &object.name).ok()?;
        let why = match object.why {
            Recorded::NotFound => Absence::NotFound,
            Recorded::Forbidden => Absence::Forbidden,
        };
        Some((key, why))
    })
}

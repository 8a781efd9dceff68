//! One row of a table: framed, digested and tagged on the way in; checked in that order on the way out.
//!
//! Bytes from the file become a [`Checked`] payload only through [`check`]: nothing else reads them.

use store_format::{Envelope, Form, Frame, RecordContext, StoreId, Table, digest_head};

use super::finding::RecordProblem;
use super::tables::RowKey;
use super::vault::Vault;
use crate::checkpoint::object::{Object, ObjectKey};
use crate::clear::Clear;
use crate::crypto::{Entropy, sha256_of};
use crate::store::StoreError;

/// A payload whose digest matched, and whether its tag did too.
pub(super) struct Checked<'a> {
    pub(super) payload: &'a [u8],
    /// `false` only where no key was at hand, or the store has none.
    pub(super) authenticated: bool,
}

/// Frames a payload for its place.
pub(super) fn frame(key: RowKey<'_>, payload: &[u8], vault: Option<&Vault>) -> Vec<u8> {
    let digest = digest(key.table(), &key.parts(), payload);
    let tag = vault.map(|vault| vault.tag(&digest));
    Frame { digest, tag, payload }.encode()
}

/// Checks what was read at a place.
pub(super) fn check<'a>(
    table: Table,
    key: &[&str],
    bytes: &'a [u8],
    vault: Option<&Vault>,
) -> Result<Checked<'a>, RecordProblem> {
    let frame = Frame::decode(bytes).map_err(RecordProblem::Malformed)?;
    if digest(table, key, frame.payload) != frame.digest {
        return Err(RecordProblem::Digest);
    }
    let authenticated = match (vault, frame.tag) {
        // Slots are read before any key is open; AES-GCM authenticates what they wrap.
        (_, _) if table == Table::Slots => false,
        (None, _) => false,
        (Some(_), None) => return Err(RecordProblem::NoTag),
        (Some(vault), Some(tag)) => {
            vault.check_tag(&frame.digest, &tag).map_err(|_| RecordProblem::Tag)?;
            true
        }
    };
    Ok(Checked { payload: frame.payload, authenticated })
}

fn digest(table: Table, key: &[&str], payload: &[u8]) -> [u8; 32] {
    sha256_of(&[&digest_head(table, key, payload.len()), payload])
}

/// Makes the envelope of an object: Secrets sealed, all others in clear.
pub(super) fn envelope(
    object: &Object,
    links: Vec<store_format::Link>,
    stored_at_unix_ms: u64,
    vault: Option<&Vault>,
    entropy: &dyn Entropy,
) -> Result<Envelope, StoreError> {
    let mut envelope = Envelope {
        kind: object.key.kind().row().name.to_owned(),
        namespace: object.key.namespace().to_owned(),
        name: object.key.name().to_owned(),
        uid: object.uid.clone(),
        resource_version: object.resource_version.clone(),
        stored_at_unix_ms,
        codec: store_format::Codec::None,
        form: Form::Clear,
        links,
        body: Vec::new(),
    };
    if object.key.kind().row().sealed {
        let vault = vault.expect("the engine leaves Secrets out where there is no data key");
        envelope.form = Form::Sealed;
        envelope.body = vault.seal(&context(&envelope, vault.store_id()), &object.body, entropy)?;
    } else {
        envelope.body = object.body.expose().to_vec();
    }
    Ok(envelope)
}

/// Takes an envelope apart again.
///
/// `Ok(None)` if it is sealed and no key is at hand.
pub(super) fn open(
    key: &ObjectKey,
    envelope: &Envelope,
    vault: Option<&Vault>,
) -> Result<Option<Object>, RecordProblem> {
    let body = match (envelope.form, vault) {
        (Form::Clear, _) => Clear::new(envelope.body.clone()),
        (Form::Sealed, None) => return Ok(None),
        (Form::Sealed, Some(vault)) => {
            vault.open(&context(envelope, vault.store_id()), &envelope.body).map_err(|_| RecordProblem::Sealed)?
        }
    };
    Ok(Some(Object {
        key: key.clone(),
        uid: envelope.uid.clone(),
        resource_version: envelope.resource_version.clone(),
        body,
    }))
}

/// The body of a sealed envelope under another data key; `None` if it does not open.
pub(super) fn reseal(
    envelope: &Envelope,
    old: &Vault,
    new: &Vault,
    entropy: &dyn Entropy,
) -> Result<Option<Vec<u8>>, StoreError> {
    let Ok(clear) = old.open(&context(envelope, old.store_id()), &envelope.body) else { return Ok(None) };
    new.seal(&context(envelope, new.store_id()), &clear, entropy).map(Some)
}

/// Whether an envelope says the same as the key it was found under, and is sealed exactly if its kind asks for it.
pub(super) fn belongs(envelope: &Envelope, key: &ObjectKey) -> bool {
    let row = key.kind().row();
    envelope.kind == row.name
        && envelope.namespace == key.namespace()
        && envelope.name == key.name()
        && (envelope.form == Form::Sealed) == row.sealed
}

fn context<'a>(envelope: &'a Envelope, store_id: &'a StoreId) -> RecordContext<'a> {
    RecordContext {
        store_id,
        kind: &envelope.kind,
        namespace: &envelope.namespace,
        name: &envelope.name,
        uid: &envelope.uid,
        resource_version: &envelope.resource_version,
    }
}

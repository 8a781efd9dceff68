"""Checks the vectors of store-format, and a store's records, against SPEC.md with another implementation.

Written from store-format/SPEC.md alone. The primitives, and the reading of private keys, are those of `cryptography` (which
wraps OpenSSL); nothing here is shared with the program. All keys that it meets are test keys.

    check.py VECTORS_DIRECTORY [RECORDS.json]
"""

import hashlib
import hmac
import json
import pathlib
import struct
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KINDS = {"node-key": 1, "recovery-code": 2, "key-file": 3, "credential": 4}
BINDING = struct.pack("<I", 1)
NONCE = bytes(12)


# Section 2.
def u64(number):
    return struct.pack("<Q", number)


def fields(*arguments):
    return b"".join(u64(len(argument)) + argument for argument in arguments)


# Sections 6 to 8.
def sha256(octets):
    return hashlib.sha256(octets).digest()


def key_info(label, context):
    return fields(b"ckpt-db key 1", label.encode(), context)


def hkdf(secret, salt, info):
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(secret)


def digest_input(table, key, payload):
    parts = [part.encode() for part in key]
    return fields(b"ckpt-db digest 1", table.encode(), u64(len(parts)), *parts, payload)


def store_context(store_id):
    return fields(BINDING, store_id)


def tag_input(store_id, digest):
    return fields(b"ckpt-db tag 1", store_id, digest)


def tag_of(data_key, store_id, digest):
    tag_key = hkdf(data_key, bytes(32), key_info("tag", store_context(store_id)))
    return hmac.new(tag_key, tag_input(store_id, digest), hashlib.sha256).digest()


def associated_data(store_id, *texts):
    return fields(BINDING, store_id, *[text.encode() for text in texts])


def seal(data_key, salt, context, clear):
    return salt + AESGCM(hkdf(data_key, salt, key_info("record", context))).encrypt(NONCE, clear, context)


def open_body(data_key, context, body):
    salt, ciphertext = body[:32], body[32:]
    return AESGCM(hkdf(data_key, salt, key_info("record", context))).decrypt(NONCE, ciphertext, context)


def slot_context(store_id, kind, fingerprint):
    return fields(BINDING, store_id, bytes([kind]), fingerprint)


def wrap(data_key, store_id, kind, secret, fingerprint, salt):
    context = slot_context(store_id, kind, fingerprint)
    return AESGCM(hkdf(secret, salt, key_info("slot", context))).encrypt(NONCE, data_key, context)


def unwrap(store_id, kind, secret, fingerprint, salt, wrapped):
    context = slot_context(store_id, kind, fingerprint)
    return AESGCM(hkdf(secret, salt, key_info("slot", context))).decrypt(NONCE, wrapped, context)


def slot_payload(kind, fingerprint, created, salt, wrapped):
    return bytes([1, kind]) + fingerprint + u64(created) + salt + wrapped


def slot_parts(payload):
    assert len(payload) == 122 and payload[0] == 1
    return payload[1], payload[2:34], payload[42:74], payload[74:122]


# Section 8.1.
SYMBOLS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def recovery_text(octets):
    check = sha256(fields(b"ckpt-db recovery code 1", octets))
    bits = "".join(f"{octet:08b}" for octet in octets) + "".join(f"{octet:08b}" for octet in check)[:20]
    symbols = [SYMBOLS[int(bits[at : at + 5], 2)] for at in range(0, 180, 5)]
    return "-".join("".join(symbols[at : at + 4]) for at in range(0, 36, 4))


def recovery_octets(text):
    symbols = []
    for character in text:
        if character == "-" or character.isspace():
            continue
        symbol = {"I": "1", "L": "1", "O": "0"}.get(character.upper(), character.upper())
        if not character.isascii() or symbol not in SYMBOLS:
            raise ValueError("recovery-code.symbol")
        symbols.append(SYMBOLS.index(symbol))
    if len(symbols) != 36:
        raise ValueError("recovery-code.length")
    bits = "".join(f"{value:05b}" for value in symbols)
    octets = bytes(int(bits[at : at + 8], 2) for at in range(0, 160, 8))
    if f"{int.from_bytes(sha256(fields(b'ckpt-db recovery code 1', octets))[:3], 'big'):024b}"[:20] != bits[160:]:
        raise ValueError("recovery-code.checksum")
    return octets


# Section 9: the key itself is read by `cryptography`.
def der(tag, contents):
    length = len(contents)
    if length < 128:
        head = bytes([length])
    else:
        octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
        head = bytes([128 | len(octets)]) + octets
    return bytes([tag]) + head + contents


def der_integer(number):
    return der(2, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def canonical(key):
    if isinstance(key, ec.EllipticCurvePrivateKey):
        oid, size = {"secp256r1": ("2a8648ce3d030107", 32), "secp384r1": ("2b81040022", 48)}[key.curve.name]
        return der(6, bytes.fromhex(oid)) + key.private_numbers().private_value.to_bytes(size, "big")
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.private_numbers()
        public = numbers.public_numbers
        integers = [0, public.n, public.e, numbers.d, numbers.p, numbers.q, numbers.dmp1, numbers.dmq1, numbers.iqmp]
        return der(0x30, b"".join(der_integer(number) for number in integers))
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    return key.private_bytes_raw()


def spki(key):
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def load_der(octets):
    return serialization.load_der_private_key(octets, password=None, unsafe_skip_rsa_key_validation=True)


# What has a slot: `KIND pkcs8 HEX`, `recovery-code TEXT`, `key-file HEX`, `credential HEX`, or `node-key pem PATH`.
def unlocker(stated):
    kind, value = stated.split(" ", 1)
    if kind == "node-key":
        form, value = value.split(" ", 1)
        if form == "pem":
            key = serialization.load_pem_private_key(pathlib.Path(value).read_bytes(), password=None)
        else:
            key = load_der(bytes.fromhex(value))
        return KINDS[kind], canonical(key), sha256(spki(key))
    secret = recovery_octets(value) if kind == "recovery-code" else bytes.fromhex(value)
    code = KINDS[kind]
    return code, secret, hkdf(secret, bytes(32), key_info("fingerprint", bytes([code])))


class Vector:
    def __init__(self, path):
        header, body = path.read_text().split("\n\n", 1)
        self.name = path.stem
        self.fields = [line.split(": ", 1) if ": " in line else [line.rstrip(":"), ""] for line in header.split("\n")]
        self.octets = b""
        for line in body.split("\n"):
            digits, _, count = line.partition(" * ")
            self.octets += bytes.fromhex(digits) * int(count or "1")

    def all(self, name):
        return [value for key, value in self.fields if key == name]

    def text(self, name):
        values = self.all(name)
        assert len(values) == 1, f"{self.name}: {name}"
        return values[0]

    def hex(self, name):
        return bytes.fromhex(self.text(name))


def opens(action):
    try:
        return action()
    except InvalidTag:
        return None


def check_key(vector, counts):
    """The canonical secret and the public key. Encodings that OpenSSL does not read are counted."""
    try:
        key = load_der(vector.octets)
    except Exception:  # noqa: BLE001: what it raises differs by encoding and version
        counts["encodings that OpenSSL does not read"] = counts.get("encodings that OpenSSL does not read", 0) + 1
        return
    assert canonical(key) == vector.hex("canonical"), f"{vector.name}: canonical"
    if vector.text("spki") != "none":
        assert spki(key) == vector.hex("spki"), f"{vector.name}: spki"
    counts["canonical secrets"] = counts.get("canonical secrets", 0) + 1


def check_vector(vector, counts):
    decoder, accept = vector.text("decoder"), vector.text("expect") == "accept"
    if decoder in ("sec1", "pkcs8", "pkcs1"):
        if accept:
            check_key(vector, counts)
        return
    if decoder == "recovery-code":
        text = vector.octets.decode()
        try:
            octets = recovery_octets(text)
        except ValueError as error:
            assert vector.text("expect") == f"reject {error}", f"{vector.name}: {error}"
        else:
            assert accept and octets == vector.hex("octets"), vector.name
            assert recovery_text(octets) == vector.text("text"), vector.name
    elif decoder == "wrap":
        kind, secret, fingerprint = unlocker(vector.text("unlocker"))
        store_id = vector.hex("store-id")
        in_slot, named, salt, wrapped = slot_parts(vector.octets)
        data_key = opens(lambda: unwrap(store_id, in_slot, secret, named, salt, wrapped))
        assert (data_key is not None) == accept, vector.name
        if accept:
            assert (data_key, in_slot, named) == (vector.hex("data-key"), kind, fingerprint), vector.name
            again = wrap(data_key, store_id, kind, secret, fingerprint, salt)
            created = int(vector.text("created-at-unix-ms"))
            assert slot_payload(kind, fingerprint, created, salt, again) == vector.octets, vector.name
    elif decoder == "seal":
        texts = [vector.text(name) for name in ("kind", "namespace", "name", "uid", "resource-version")]
        context = associated_data(vector.hex("store-id"), *texts)
        clear = opens(lambda: open_body(vector.hex("data-key"), context, vector.octets))
        assert (clear is not None) == accept, vector.name
        if accept:
            assert clear == vector.hex("clear"), vector.name
            assert seal(vector.hex("data-key"), vector.octets[:32], context, clear) == vector.octets, vector.name
    elif decoder == "tag":
        frame = vector.octets
        digest = sha256(digest_input(vector.text("table"), vector.all("key-part"), frame[66:]))
        right = frame[2:34] == digest and frame[34:66] == tag_of(vector.hex("data-key"), vector.hex("store-id"), digest)
        assert frame[:2] == b"\x01\x01" and right == accept, vector.name
    elif decoder == "digest-input":
        computed = digest_input(vector.text("table"), vector.all("key-part"), vector.hex("payload"))
        assert computed == vector.octets, vector.name
    elif decoder == "tag-input":
        assert tag_input(vector.hex("store-id"), vector.hex("digest")) == vector.octets, vector.name
    elif decoder == "key-info":
        assert key_info(vector.text("purpose"), vector.hex("context")) == vector.octets, vector.name
    elif decoder == "store-context":
        assert store_context(vector.hex("store-id")) == vector.octets, vector.name
    elif decoder == "slot-context":
        kind = KINDS[vector.text("kind")]
        computed = slot_context(vector.hex("store-id"), kind, vector.hex("fingerprint"))
        assert computed == vector.octets, vector.name
    elif decoder == "associated-data":
        texts = [vector.text(name) for name in ("kind", "namespace", "name", "uid", "resource-version")]
        assert associated_data(vector.hex("store-id"), *texts) == vector.octets, vector.name
    else:
        return  # A layout without cryptography: another test reads those.
    counts[decoder] = counts.get(decoder, 0) + 1


def envelope_parts(payload):
    """Kind, namespace, name, uid, resourceVersion, whether it is sealed, and the body (section 5.2)."""
    at = 1

    def take():
        nonlocal at
        (length,) = struct.unpack_from("<Q", payload, at)
        at += 8 + length
        return payload[at - length : at]

    texts = [take().decode() for _ in range(5)]
    at += 8
    codec, form = payload[at], payload[at + 1]
    at += 2
    (links,) = struct.unpack_from("<Q", payload, at)
    at += 8
    for _ in range(3 * links):
        take()
    body = take()
    assert payload[0] == 1 and codec == 0 and at == len(payload)
    return texts, form == 1, body


def check_records(records, counts):
    """A store that the program wrote: {"store_id", "unlockers", "rows": [[table, [key...], hex]], "clear": {key: hex}}."""
    store_id = bytes.fromhex(records["store_id"])
    rows = [(table, key, bytes.fromhex(octets)) for table, key, octets in records["rows"]]
    data_keys = set()
    for stated in records["unlockers"]:
        kind, secret, fingerprint = unlocker(stated)
        name = f"{store_id.hex()}.{fingerprint.hex()}"
        places = [octets for table, key, octets in rows if (table, key) in (("slots", [name]), ("meta", [f"slot/{name}"]))]
        assert len(places) == 2, f"{stated.split()[0]}: a slot and its mirror"
        for frame in places:
            in_slot, named, salt, wrapped = slot_parts(frame[34 if frame[1] == 0 else 66 :])
            assert (in_slot, named) == (kind, fingerprint)
            data_keys.add(unwrap(store_id, kind, secret, fingerprint, salt, wrapped))
        counts["slots of the program"] = counts.get("slots of the program", 0) + 1
    (data_key,) = data_keys
    opened = {}
    for table, key, frame in rows:
        tagged = frame[1] == 1
        payload = frame[66:] if tagged else frame[34:]
        digest = sha256(digest_input(table, key, payload))
        assert frame[0] == 1 and frame[2:34] == digest, f"{table}/{key}: digest"
        assert tagged == (table != "slots"), f"{table}/{key}"
        assert not tagged or frame[34:66] == tag_of(data_key, store_id, digest), f"{table}/{key}: tag"
        if table == "objects":
            texts, sealed, body = envelope_parts(payload)
            assert texts[:3] == key and sealed == (key[0] == "Secret")
            if sealed:
                body = open_body(data_key, associated_data(store_id, *texts), body)
            opened["/".join(key)] = body.hex()
        counts["records of the program"] = counts.get("records of the program", 0) + 1
    assert opened == records["clear"], "what the records hold"


def main():
    counts = {}
    vectors = pathlib.Path(sys.argv[1])
    for path in sorted(vectors.glob("*.txt")) + sorted(vectors.glob("crypto/*.txt")):
        check_vector(Vector(path), counts)
    if len(sys.argv) > 2:
        check_records(json.loads(pathlib.Path(sys.argv[2]).read_text()), counts)
    assert counts["canonical secrets"] >= 12, "OpenSSL reads hardly any of the keys"
    for what, count in sorted(counts.items()):
        print(f"{count} {what}")


if __name__ == "__main__":
    main()

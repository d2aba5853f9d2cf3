/**
 * The wire of every released protocol version, kept as bytes: what nodes in the field send has to be read to the same values for ever, and what this
 * version sends has to be what it sent when its vectors were made. Made by samples.ts; origin: this project.
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { CODECS } from "./codecs.ts";
import { fromPlain, toPlain } from "./plain.ts";
import { SAMPLES } from "./samples.ts";

interface VectorFile {
  readonly protocol: number;
  readonly vectors: readonly {
    readonly codec: string;
    readonly name: string;
    readonly input: unknown;
    readonly hex: string;
    readonly value: unknown;
  }[];
}

const CURRENT = 1;
const here = new URL(".", import.meta.url);
const files = readdirSync(here)
  .filter((name) => /^vectors-\d+\.json$/.test(name))
  .map((name) => JSON.parse(readFileSync(new URL(name, here), "utf8")) as VectorFile);

test("there are vectors of the protocol that this version speaks", () => {
  assert.ok(files.some(({ protocol }) => protocol === CURRENT));
});

for (const { protocol, vectors } of files) {
  for (const { codec, name, input, hex, value } of vectors) {
    test(`protocol ${protocol}: ${codec}, ${name}`, () => {
      const { decode, encode } = CODECS[codec];
      const bytes = Uint8Array.from(Buffer.from(hex, "hex"));
      assert.deepEqual(toPlain(decode(bytes, fromPlain(input))), value);
      if (protocol === CURRENT) assert.equal(Buffer.from(encode(fromPlain(input))).toString("hex"), hex);
    });
  }
}

test("every sample has its vector, and every codec its sample", () => {
  const current = files.find(({ protocol }) => protocol === CURRENT);
  const kept = new Set(current?.vectors.map(({ codec, name }) => `${codec}/${name}`));
  for (const { codec, name } of SAMPLES) assert.ok(kept.has(`${codec}/${name}`), `${codec}/${name} has no vector`);
  for (const codec of Object.keys(CODECS))
    assert.ok(
      SAMPLES.some((sample) => sample.codec === codec),
      codec,
    );
});

test("a changed byte of a vector is noticed", () => {
  for (const { vectors } of files) {
    for (const { codec, input, hex, value } of vectors) {
      const bytes = Uint8Array.from(Buffer.from(hex, "hex"));
      let noticed = 0;
      for (const at of [0, bytes.length >> 1]) {
        const changed = bytes.slice();
        changed[at] ^= 0x04;
        try {
          if (JSON.stringify(toPlain(CODECS[codec].decode(changed, fromPlain(input)))) !== JSON.stringify(value))
            noticed++;
        } catch {
          noticed++;
        }
      }
      assert.ok(noticed > 0, codec);
    }
  }
});

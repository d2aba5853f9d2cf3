/**
 * What a person types, as a full-text query of SQLite's FTS5: words that must all be there, "phrases in quotes", and beginnings with a star at their end.
 * Every word is quoted, so nothing that is typed is syntax. Source: https://www.sqlite.org/fts5.html section 3.
 */
const MAX_TERMS = 16;
const MAX_CHARACTERS = 256;

/** @returns undefined when there is no word in it */
export function searchQuery(typed: string): string | undefined {
  const terms: string[] = [];
  for (const match of typed
    .slice(0, MAX_CHARACTERS)
    .toWellFormed()
    .matchAll(/"([^"]*)"|([^\s"]+)/gu)) {
    const isPhrase = match[1] !== undefined;
    const raw = match[1] ?? match[2];
    const isPrefix = !isPhrase && raw.endsWith("*");
    const words = raw.replaceAll("\0", " ").replaceAll("*", " ").trim();
    // the tokenizer drops everything else, and an empty term is an error
    if (!/[\p{L}\p{N}\p{Co}]/u.test(words)) continue;
    terms.push(`"${words}"${isPrefix ? "*" : ""}`);
    if (terms.length === MAX_TERMS) break;
  }
  return terms.length === 0 ? undefined : terms.join(" ");
}

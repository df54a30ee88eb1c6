// OpenAI's JavaScript client against a server: node openai.mjs http://127.0.0.1:8765/v1
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none" });
const asked = { model: "house/chat", messages: [{ role: "user", content: "Hello!" }], seed: 1 };

const whole = await client.chat.completions.create(asked);
const said = whole.choices[0].message.content;
assert(said.length > 0);

let pieces = "";
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
  pieces += chunk.choices[0]?.delta?.content ?? "";
}
assert.equal(pieces, said);

const runner = client.chat.completions.stream(asked);
assert.equal(await runner.finalContent(), said);

const response = await client.responses.create({ model: "house/chat", input: "Hello!" });
assert(response.output_text.length > 0);

const vectors = await client.embeddings.create({ model: "house/text", input: ["a", "b"] });
assert.equal(vectors.data.length, 2);
assert(vectors.data[0].embedding.length > 10);

const picture = await client.images.generate({ model: "house/image", prompt: "a red circle" });
assert(picture.data[0].b64_json.startsWith("iVBOR"));

const names = [];
for await (const model of client.models.list()) names.push(model.id);
assert(names.includes("house/chat"));

await assert.rejects(client.chat.completions.create({ ...asked, model: "nothing" }), { status: 404 });
console.log("ok");

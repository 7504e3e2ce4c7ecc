// The official OpenAI client of Node streams through our /v1. Prints one line of JSON a stream.
const OpenAI = require("openai");

const client = new OpenAI({
  baseURL: process.env.PS_API_URL + "/v1",
  apiKey: process.env.PS_API_KEY,
  maxRetries: 0,
});

async function main() {
  for (const asks of [true, false]) {
    const { data, response } = await client.chat.completions
      .create({
        model: "gpt-4o",
        messages: [{ role: "user", content: "Hello!" }],
        stream: true,
        ...(asks ? { stream_options: { include_usage: true } } : {}),
      })
      .withResponse();
    let text = "";
    let usage = null;
    for await (const chunk of data) {
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }
    if ((usage !== null) !== asks) throw new Error(`usage: ${JSON.stringify(usage)}`);
    const charge = response.headers.get("x-polysystems-charge");
    const told = { charge, cost: usage?.cost ?? null, tokens: usage?.total_tokens ?? null, text };
    console.log(JSON.stringify(told));
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});

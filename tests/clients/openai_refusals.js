// What the official OpenAI client of Node makes of refusals: a line of JSON for each case of CASES.
const OpenAI = require("openai");

async function main() {
  const messages = [{ role: "user", content: "Hello!" }];
  for (const { name, key, route, model, body, headers } of JSON.parse(process.env.CASES)) {
    const client = new OpenAI({ baseURL: process.env.PS_API_URL + "/v1", apiKey: key, maxRetries: 0 });
    try {
      if (route) await client.files.retrieve("file-1");
      else await client.chat.completions.create({ model: model ?? "gpt-4o", messages, ...body }, { headers });
      console.log(JSON.stringify([name, null]));
    } catch (error) {
      console.log(JSON.stringify([name, [error.status, error.type, error.code], error.message]));
    }
  }
}

main();

// .NET's HttpClient sends a non-ASCII file name twice: as an encoded word and as `filename*`.

using System;
using System.IO;
using System.Net.Http;
using System.Net.Http.Headers;

class Upload
{
    static int Main()
    {
        var file = new StreamContent(File.OpenRead("photo.png"));
        file.Headers.ContentType = new MediaTypeHeaderValue("image/png");
        var form = new MultipartFormDataContent { { new StringContent("reports"), "dir" }, { file, "file", "报告.png" } };
        var client = new HttpClient();
        client.DefaultRequestHeaders.Authorization =
            new AuthenticationHeaderValue("Bearer", Environment.GetEnvironmentVariable("GATEWAY_KEY"));
        var reply = client.PostAsync("https://files.example.com/v1/files", form).Result;
        var answer = reply.Content.ReadAsStringAsync().Result;
        if ((int)reply.StatusCode != 201)
        {
            Console.Error.WriteLine($"HTTP {(int)reply.StatusCode}: {answer}");
            return 1;
        }
        Console.WriteLine(reply.Headers.Location);
        return 0;
    }
}

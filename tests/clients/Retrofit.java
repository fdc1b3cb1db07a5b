// Retrofit's parts, made with OkHttp, which Retrofit sends them with: every part, fields included, is declared as
// `multipart/form-data` and `binary`.

import java.io.File;
import okhttp3.*;

class Retrofit {
    static final MediaType FORM = MediaType.parse("multipart/form-data");

    static MultipartBody.Part part(String disposition, RequestBody body) {
        // Like `@PartMap`.
        return MultipartBody.Part.create(
            Headers.of("Content-Disposition", "form-data; " + disposition, "Content-Transfer-Encoding", "binary"), body);
    }

    public static void main(String[] arguments) throws Exception {
        RequestBody form = new MultipartBody.Builder()
            .setType(MultipartBody.FORM)
            .addPart(part("name=\"dir\"", RequestBody.create(FORM, "reports")))
            .addPart(part("name=\"file\"; filename=\"photo.png\"", RequestBody.create(FORM, new File("photo.png"))))
            .build();
        Request request = new Request.Builder()
            .url("https://files.example.com/v1/files")
            .header("Authorization", "Bearer " + System.getenv("GATEWAY_KEY"))
            .post(form)
            .build();
        try (Response reply = new OkHttpClient().newCall(request).execute()) {
            if (reply.code() != 201) throw new RuntimeException("HTTP " + reply.code() + ": " + reply.body().string());
            System.out.println(reply.header("Location"));
        }
    }
}
